"""Scores of predictions against references, by the field's conventions. All deterministic, all plain floats."""

from __future__ import annotations

from collections.abc import Sequence


def classification_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1 in [0, 1], Matthews' correlation in [-1, 1] (scikit-learn, multi-class form of the latter).

    Macro F1 averages over the labels that occur among predictions or references.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    _same_length(predictions, references)
    return {
        "accuracy": float(accuracy_score(references, predictions)),
        "matthews": float(matthews_corrcoef(references, predictions)),
        "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0.0)),
    }


def rouge_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measure with Porter stemming, averaged over pairs, times 100 (Lin 2004).

    `rouge_score`'s tokenizer keeps [a-z0-9] only, as the published English numbers do: other scripts score 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    _same_length(predictions, references)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    totals = {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    for prediction, reference in zip(predictions, references, strict=True):
        for name, score in scorer.score(reference, prediction).items():
            totals[name] += score.fmeasure
    return {name: float(100.0 * total / len(references)) for name, total in totals.items()}


def _same_length(predictions: Sequence[str], references: Sequence[str]) -> None:
    assert len(predictions) == len(references), f"{len(predictions)} predictions for {len(references)} references"
    assert references, "nothing to score"
