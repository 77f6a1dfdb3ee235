"""The files that every unit leaves, a model's or a baseline's: predictions.jsonl and metrics.json (docs/downstream.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import atomic
from pipeline.downstream.judge import Predictions, intervals, number, score
from pipeline.downstream.tasks import Examples, TaskData


@dataclass(frozen=True)
class Origin:
    """Where scores come from; the fields of metrics.json, None for a baseline what it has none of."""

    model: str
    baseline: bool = False
    seed: int | None = None
    learning_rate: float | None = None
    data: str = "gold"
    teacher: str | None = None
    steps: dict[str, int] | None = None


def write_record(
    root: Path,
    origin: Origin,
    data: TaskData,
    found: Mapping[str, Predictions],
    *,
    train: Examples,
    validation: Mapping[str, float],
    cut: Mapping[str, int],
    resamples: int,
) -> tuple[list[str], dict[str, float]]:
    """Write them; returns the names of the files and the scores.

    found: predictions by the prefixes of `TaskData.tests`; train: what it was trained on; cut: test rows that were too long.
    """
    task, positive = data.task, positive_label(data)
    scores: dict[str, float] = {}
    within: dict[str, list[float]] = {}
    files = []
    for prefix, predictions in found.items():
        name = f"predictions-{prefix.rstrip('/')}.jsonl" if prefix else "predictions.jsonl"
        atomic.write_text(root / name, predictions.lines())
        files.append(name)
        scores |= {
            prefix + metric: value for metric, value in score(task, predictions, positive).items()
        }
        within |= {
            prefix + m: ends
            for m, ends in intervals(task, predictions, positive, resamples).items()
        }
    parts = {"train": train, "validation": data.validation, "test": data.test}
    record: dict[str, Any] = {
        "task": task.name,
        "kind": task.kind,
        **asdict(origin),
        "positive": positive,
        "metric": task.judged_by,
        "scores": scores,
        "intervals": within,
        "validation": dict(validation),
        "rows": {name: len(part) for name, part in parts.items()},
        "skipped": {
            name: {"empty": part.empty, "dropped": part.dropped, "duplicated": part.duplicated}
            for name, part in parts.items()
        },
        "overlap": overlap(data),
        "cut": dict(cut),
        "stray": stray(data, found[""]),
    }
    atomic.write_json(root / "metrics.json", record)
    return [*files, "metrics.json"], scores


def positive_label(data: TaskData) -> str | None:
    return data.task.positive or (data.labels[-1] if data.labels else None)


def overlap(data: TaskData) -> dict[str, int]:
    """Test examples whose source, spaces and case aside, is also one of the training (validation) examples'."""
    others = {"train_test": data.train, "validation_test": data.validation}
    plain = [_plain(source) for source in data.test.sources]
    return {
        name: sum(source in known for source in plain)
        for name, known in (
            (name, {_plain(s) for s in part.sources}) for name, part in others.items()
        )
    }


def stray(data: TaskData, found: Predictions) -> int:
    """Predictions that are no label, or no number."""
    if data.task.kind == "regression":
        return sum(number(text) is None for text in found.predictions)
    return (
        sum(text not in data.labels for text in found.predictions) if data.labels is not None else 0
    )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
