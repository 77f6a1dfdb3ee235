"""A unit's predictions on one test set: their scores, intervals, and the record kept of every row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from pipeline.downstream.bootstrap import Column, interval
from pipeline.downstream.metrics import ROUGE, label_metrics, number_metrics, rouge_rows
from pipeline.recipe import Task


@dataclass(frozen=True)
class Predictions:
    """In the order of the test rows."""

    rows: list[int]
    predictions: list[str]
    references: list[str | float]
    #: Of each row: log-likelihood by label, or ROUGE by name; empty where there is neither.
    scores: list[dict[str, float]]

    def lines(self) -> str:
        """One JSON object a row."""
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


def judged(
    task: Task,
    rows: Sequence[int],
    predictions: Sequence[str],
    references: Sequence[str | float],
    scores: Sequence[Mapping[str, float]] | None = None,
) -> Predictions:
    """Join predictions with what they are compared with; generated texts get their own ROUGE values."""
    if task.kind == "generation":
        scores = rouge_rows(ROUGE, predictions, [str(text) for text in references])
    kept = [
        {name: round(value, 6) for name, value in row.items()} for row in scores or [{}] * len(rows)
    ]
    return Predictions(list(rows), list(predictions), list(references), kept)


def score(task: Task, found: Predictions, positive: str | None) -> dict[str, float]:
    """Every metric of the task over all rows. positive: the label of `f1`."""
    names = task.measured_by
    if task.kind == "generation":
        return {name: float(np.mean([row[name] for row in found.scores])) for name in names}
    if task.kind == "regression":
        return number_metrics(
            names, numbers(task, found.predictions), [float(r) for r in found.references]
        )
    return label_metrics(names, found.predictions, [str(r) for r in found.references], positive)


def intervals(
    task: Task, found: Predictions, positive: str | None, resamples: int
) -> dict[str, list[float]]:
    return {
        metric: list(interval([column(task, found, metric, positive)], resamples))
        for metric in task.measured_by
    }


def column(task: Task, found: Predictions, metric: str, positive: str | None) -> Column:
    """The rows as `metric` sees them, to be resampled."""
    if task.kind == "generation":
        return Column(metric, np.array([[row[metric]] for row in found.scores]))
    if task.kind == "regression":
        return Column(
            metric, np.array([numbers(task, found.predictions), found.references], np.float64).T
        )
    pairs = list(zip(found.predictions, found.references, strict=True))
    if metric == "accuracy":
        return Column(metric, np.array([[float(p == r)] for p, r in pairs]))
    # Numbered so that two models' columns agree: by the text alone.
    codes = {
        text: index
        for index, text in enumerate(sorted({str(text) for pair in pairs for text in pair}))
    }
    values = np.array([[codes[str(text)] for text in pair] for pair in pairs], np.float64)
    return Column(metric, values, codes.get(str(positive), -1))


def numbers(task: Task, predictions: Sequence[str]) -> list[float]:
    """Predicted texts as numbers; one that is none counts as the middle of the range."""
    assert task.values is not None
    middle = (task.values.low + task.values.high) / 2
    return [middle if (value := number(text)) is None else value for text in predictions]


def number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None
