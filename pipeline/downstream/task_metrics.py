"""Predictions of one test set with their references, and their metrics by the field's conventions.

All metrics are deterministic and plain floats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from pipeline.downstream.bootstrap import MetricColumn, interval
from pipeline.recipe import METRICS, Task

ROUGE = METRICS["generation"]
#: The end of a sentence. `rouge_score` splits at line breaks alone, and its own splitter fetches
#: NLTK's data from the network.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|\s*\n\s*")


@dataclass(frozen=True)
class Predictions:
    """Predictions and references of test rows, in the order of the file."""

    rows: list[int]
    predictions: list[str]
    references: list[str | float]
    #: For each row: log-likelihood by label, or ROUGE by name; empty where there is neither.
    scores: list[dict[str, float]]

    def lines(self) -> str:
        """Return one JSON object a row."""
        records: list[dict[str, Any]] = [
            {"row": row, "prediction": prediction, "reference": reference}
            | ({"scores": scores} if scores else {})
            for row, prediction, reference, scores in zip(
                self.rows, self.predictions, self.references, self.scores, strict=True
            )
        ]
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    @classmethod
    def parse(cls, text: str) -> Predictions:
        records = [json.loads(line) for line in text.splitlines()]
        names = ("row", "prediction", "reference")
        rows, predictions, references = ([record[name] for record in records] for name in names)
        return cls(rows, predictions, references, [record.get("scores", {}) for record in records])


def pair_predictions(
    task: Task,
    rows: Sequence[int],
    predictions: Sequence[str],
    references: Sequence[str | float],
    scores: Sequence[Mapping[str, float]] | None = None,
) -> Predictions:
    """Pair predictions with their references; generated texts get their own ROUGE values."""
    if task.kind == "generation":
        scores = rouge_rows(ROUGE, predictions, [str(text) for text in references])
    rounded = [
        {name: round(value, 6) for name, value in row.items()} for row in scores or [{}] * len(rows)
    ]
    return Predictions(list(rows), list(predictions), list(references), rounded)


def evaluate(task: Task, paired: Predictions, positive: str | None) -> dict[str, float]:
    """Return every metric of the task over all rows. positive: the label of `f1`."""
    names = task.measured_by
    if task.kind == "generation":
        return {name: float(np.mean([row[name] for row in paired.scores])) for name in names}
    if task.kind == "regression":
        predicted = _numbers(task, paired.predictions)
        return number_metrics(names, predicted, [float(value) for value in paired.references])
    return label_metrics(
        names, paired.predictions, [str(label) for label in paired.references], positive
    )


def intervals(
    task: Task, paired: Predictions, positive: str | None, resamples: int
) -> dict[str, list[float]]:
    """Return the 95 % interval of every metric of the task over the test rows."""
    return {
        metric: list(interval([metric_column(task, paired, metric, positive)], resamples))
        for metric in task.measured_by
    }


def metric_column(
    task: Task, paired: Predictions, metric: str, positive: str | None
) -> MetricColumn:
    """Return the rows as `metric` sees them, to be resampled."""
    if task.kind == "generation":
        return MetricColumn(metric, np.array([[row[metric]] for row in paired.scores]))
    if task.kind == "regression":
        sides = [_numbers(task, paired.predictions), paired.references]
        return MetricColumn(metric, np.array(sides, np.float64).T)
    pairs = list(zip(paired.predictions, paired.references, strict=True))
    if metric == "accuracy":
        return MetricColumn(metric, np.array([[float(p == r)] for p, r in pairs]))
    # Numbered by the text alone, so that the columns of two models agree.
    texts = sorted({str(text) for pair in pairs for text in pair})
    codes = {text: index for index, text in enumerate(texts)}
    values = np.array([[codes[str(text)] for text in pair] for pair in pairs], np.float64)
    return MetricColumn(metric, values, codes.get(str(positive), -1))


def label_metrics(
    names: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    positive: str | None = None,
) -> dict[str, float]:
    """Return `names` among accuracy and F1 in [0, 1], Matthews' correlation in [-1, 1].

    Computed by scikit-learn. f1: of the label `positive`. macro_f1: the mean over the labels that
    occur among predictions or references.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    _check_lengths(predictions, references)
    truth, predicted = list(references), list(predictions)
    values = {}
    for name in names:
        if name == "accuracy":
            value = accuracy_score(truth, predicted)
        elif name == "f1":
            value = f1_score(
                truth, predicted, labels=[positive], average="macro", zero_division=0.0
            )
        elif name == "macro_f1":
            value = f1_score(truth, predicted, average="macro", zero_division=0.0)
        else:
            value = matthews_corrcoef(truth, predicted)
        values[name] = float(value)
    return values


def number_metrics(
    names: Sequence[str], predictions: Sequence[float], references: Sequence[float]
) -> dict[str, float]:
    """Return `names` among Pearson's and Spearman's correlation, computed by scipy.

    0 where one side is constant and the correlation is not defined.
    """
    from scipy.stats import pearsonr, spearmanr

    _check_lengths(predictions, references)
    constant = len(set(predictions)) < 2 or len(set(references)) < 2
    functions = {"pearson": pearsonr, "spearman": spearmanr}
    return {
        name: 0.0 if constant else float(functions[name](predictions, references).statistic)
        for name in names
    }


def rouge_rows(
    names: Sequence[str], predictions: Sequence[str], references: Sequence[str]
) -> list[dict[str, float]]:
    """Return ROUGE F-measures of each pair, times 100 (Lin 2004); their mean is the score.

    With Porter stemming. rougeL takes a text as one sequence, rougeLsum sentence by sentence.
    `rouge_score`'s tokenizer keeps [a-z0-9] only, as the published English numbers do: other
    scripts score 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    _check_lengths(predictions, references)
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
    """Return `text` with one sentence a line."""
    return "\n".join(part for part in _SENTENCE_END.split(text) if part)


def number(text: str) -> float | None:
    """Return the finite number that `text` is, if any."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _numbers(task: Task, predictions: Sequence[str]) -> list[float]:
    """Return texts as numbers; one that is no number counts as the middle of the range."""
    assert task.values is not None
    middle = (task.values.low + task.values.high) / 2
    return [middle if (value := number(text)) is None else value for text in predictions]


def _check_lengths(predictions: Sequence[object], references: Sequence[object]) -> None:
    assert len(predictions) == len(references), (
        f"{len(predictions)} predictions for {len(references)} references"
    )
    assert references, "nothing to score"
