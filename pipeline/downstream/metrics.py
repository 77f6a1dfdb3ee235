"""Scores of predictions against references, by the field's conventions. All deterministic, all plain floats."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.recipe import METRICS

ROUGE = METRICS["generation"]
#: Where a sentence ends: `rouge_score` splits at line breaks alone, and its own splitter fetches NLTK's data from the network.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|\s*\n\s*")


def label_metrics(
    names: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    positive: str | None = None,
) -> dict[str, float]:
    """`names` out of accuracy and F1 in [0, 1], Matthews' correlation in [-1, 1] (scikit-learn).

    f1: of the label `positive`. macro_f1 averages over the labels that occur among predictions or references.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    _same_length(predictions, references)
    truth, found = list(references), list(predictions)
    values = {}
    for name in names:
        if name == "accuracy":
            value = accuracy_score(truth, found)
        elif name == "f1":
            value = f1_score(truth, found, labels=[positive], average="macro", zero_division=0.0)
        elif name == "macro_f1":
            value = f1_score(truth, found, average="macro", zero_division=0.0)
        else:
            value = matthews_corrcoef(truth, found)
        values[name] = float(value)
    return values


def number_metrics(
    names: Sequence[str], predictions: Sequence[float], references: Sequence[float]
) -> dict[str, float]:
    """`names` out of Pearson's and Spearman's correlation (scipy); 0 where one side is constant and it is not defined."""
    from scipy.stats import pearsonr, spearmanr

    _same_length(predictions, references)
    constant = len(set(predictions)) < 2 or len(set(references)) < 2
    functions = {"pearson": pearsonr, "spearman": spearmanr}
    return {
        name: 0.0 if constant else float(functions[name](predictions, references).statistic)
        for name in names
    }


def rouge_rows(
    names: Sequence[str], predictions: Sequence[str], references: Sequence[str]
) -> list[dict[str, float]]:
    """ROUGE F-measures with Porter stemming of each pair, times 100 (Lin 2004); their mean is the score.

    rougeL takes a text as one sequence, rougeLsum sentence by sentence. `rouge_score`'s tokenizer keeps [a-z0-9] only, as the
    published English numbers do: other scripts score 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    _same_length(predictions, references)
    scorer = RougeScorer(list(names), use_stemmer=True)
    pairs = zip(map(sentences, predictions), map(sentences, references), strict=True)
    return [
        {
            name: 100.0 * score.fmeasure
            for name, score in scorer.score(reference, prediction).items()
        }
        for prediction, reference in pairs
    ]


def sentences(text: str) -> str:
    """`text` with one sentence a line."""
    return "\n".join(part for part in _SENTENCE_END.split(text) if part)


def _same_length(predictions: Sequence[object], references: Sequence[object]) -> None:
    assert len(predictions) == len(references), (
        f"{len(predictions)} predictions for {len(references)} references"
    )
    assert references, "nothing to score"
