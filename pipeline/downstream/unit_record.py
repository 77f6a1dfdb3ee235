"""The files of every unit, a model's or a baseline's: metrics.json and predictions.jsonl.

docs/downstream.md describes their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.artifacts import atomic
from pipeline.downstream.task_metrics import Predictions, evaluate, intervals, number
from pipeline.downstream.tasks import Examples, TaskData


@dataclass(frozen=True, kw_only=True)
class ModelOrigin:
    """Fields of metrics.json that say which model was scored and how it was trained.

    For a baseline, None where it has nothing to say.
    """

    model: str
    baseline: bool = False
    seed: int | None = None
    learning_rate: float | None = None
    data: str = "gold"
    teacher: str | None = None
    steps: dict[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class UnitRecord(ModelOrigin):
    """The fields of metrics.json."""

    task: str
    kind: str
    metric: str
    #: The label that `f1` is about.
    positive: str | None
    scores: dict[str, float]
    intervals: dict[str, list[float]]
    validation: dict[str, float]
    rows: dict[str, int]
    skipped: dict[str, dict[str, int]]
    overlap: dict[str, int]
    cut: dict[str, int]
    stray: int


def write_unit(
    root: Path,
    origin: ModelOrigin,
    data: TaskData,
    predictions: Mapping[str, Predictions],
    *,
    train: Examples,
    validation: Mapping[str, float],
    cut: Mapping[str, int],
    resamples: int,
) -> tuple[list[str], dict[str, float]]:
    """Write both files; returns the names of the files, and the scores.

    predictions: by the prefixes of `TaskData.tests`. train: the examples it was trained on.
    validation: its scores on the validation rows. cut: test rows that were too long.
    """
    files = []
    for prefix, paired in predictions.items():
        files.append(predictions_file(prefix.rstrip("/")))
        atomic.write_text(root / files[-1], paired.lines())
    scores, ends = _test_scores(data, predictions, resamples)
    parts = {"train": train, "validation": data.validation, "test": data.test}
    record = UnitRecord(
        **asdict(origin),
        task=data.task.name,
        kind=data.task.kind,
        metric=data.task.judged_by,
        positive=data.positive,
        scores=scores,
        intervals=ends,
        validation=dict(validation),
        rows={name: len(part) for name, part in parts.items()},
        skipped={name: _skipped(part) for name, part in parts.items()},
        overlap=overlap(data),
        cut=dict(cut),
        stray=stray(data, predictions[""]),
    )
    atomic.write_json(root / "metrics.json", asdict(record))
    return [*files, "metrics.json"], scores


def predictions_file(part: str = "") -> str:
    """Return the file with the predictions of a test set. part: one of the task's `more_tests`."""
    return f"predictions-{part}.jsonl" if part else "predictions.jsonl"


def overlap(data: TaskData) -> dict[str, int]:
    """Count the test examples whose source is also a training (validation) example's.

    Spaces and case aside.
    """
    sources = [_plain(source) for source in data.test.sources]
    counts = {}
    for name, part in (("train_test", data.train), ("validation_test", data.validation)):
        known = {_plain(source) for source in part.sources}
        counts[name] = sum(source in known for source in sources)
    return counts


def stray(data: TaskData, paired: Predictions) -> int:
    """Count the predictions that are no label, or no number."""
    if data.task.kind == "regression":
        return sum(number(text) is None for text in paired.predictions)
    if data.labels is None:
        return 0
    return sum(text not in data.labels for text in paired.predictions)


def _test_scores(
    data: TaskData, predictions: Mapping[str, Predictions], resamples: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the metrics of all test sets and their intervals, named with the set's prefix."""
    scores: dict[str, float] = {}
    ends: dict[str, list[float]] = {}
    for prefix, paired in predictions.items():
        values = evaluate(data.task, paired, data.positive)
        scores |= {prefix + metric: value for metric, value in values.items()}
        bounds = intervals(data.task, paired, data.positive, resamples)
        ends |= {prefix + metric: value for metric, value in bounds.items()}
    return scores, ends


def _skipped(part: Examples) -> dict[str, int]:
    return {"empty": part.empty, "dropped": part.dropped, "duplicated": part.duplicated}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
