"""Finished units, read back: of a sweep the rate that validation chose, means over seeds, and whether two models differ.

Nothing is run again: `metrics.json` and `predictions.jsonl` of each unit hold all that is needed (docs/downstream.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pipeline.artifacts import Output
from pipeline.downstream.baselines import suits
from pipeline.downstream.bootstrap import Column, Difference, difference, interval
from pipeline.downstream.judge import Predictions, column
from pipeline.downstream.unit import best_rate, units_of
from pipeline.errors import DataError, PipelineError
from pipeline.lineage import baseline_output
from pipeline.recipe import Recipe, Task


@dataclass(frozen=True)
class UnitResult:
    """One finished unit: the fields of its metrics.json, and where it lies."""

    root: Path
    #: The task as the recipe has it.
    settings: Task
    task: str
    kind: str
    model: str
    baseline: bool
    seed: int | None
    learning_rate: float | None
    data: str
    teacher: str | None
    metric: str
    scores: dict[str, float]
    intervals: dict[str, list[float]]
    validation: dict[str, float]
    steps: dict[str, int] | None
    rows: dict[str, int]
    skipped: dict[str, dict[str, int]]
    overlap: dict[str, int]
    cut: dict[str, int]
    stray: int
    #: Whose F1 `f1` is.
    positive: str | None

    def predictions(self, part: str = "") -> Predictions:
        """Of the test rows, or of one of the task's `more_tests`."""
        name = f"predictions-{part}.jsonl" if part else "predictions.jsonl"
        return Predictions.parse((self.root / name).read_text(encoding="utf-8"))

    def column(self, metric: str) -> Column:
        """Its rows as one metric sees them; metric: a name in `scores`."""
        part, _, name = metric.rpartition("/")
        return column(self.settings, self.predictions(part), name, self.positive)


@dataclass(frozen=True)
class Scored:
    """One model on one task: the units, one a seed, of the learning rate that validation chose."""

    units: list[UnitResult]
    resamples: int

    @property
    def learning_rate(self) -> float | None:
        return self.units[0].learning_rate

    @property
    def mean(self) -> dict[str, float]:
        return {
            metric: fmean(unit.scores[metric] for unit in self.units)
            for metric in self.units[0].scores
        }

    @property
    def deviation(self) -> dict[str, float | None]:
        """Sample standard deviation over the seeds; None for one seed."""
        several = len(self.units) > 1
        return {
            metric: stdev(unit.scores[metric] for unit in self.units) if several else None
            for metric in self.units[0].scores
        }

    @cached_property
    def interval(self) -> Mapping[str, tuple[float, float]]:
        """95 % by bootstrap over the test rows, of the mean over the seeds."""
        if len(self.units) == 1:
            return {metric: (low, high) for metric, (low, high) in self.units[0].intervals.items()}
        return {
            metric: interval(self.columns(metric), self.resamples)
            for metric in self.units[0].scores
        }

    def columns(self, metric: str) -> list[Column]:
        return [unit.column(metric) for unit in self.units]


def read_units(recipe: Recipe) -> list[UnitResult]:
    """Every finished unit of the recipe, baselines last. One that was made from something else is no result of it."""
    outputs = [
        (task, unit_output)
        for task in recipe.finetune.tasks
        for unit_output in [*_outputs(recipe, task), *_baselines(recipe, task)]
    ]
    return [_read(task, output.root) for task, output in outputs]


def chosen(recipe: Recipe) -> dict[str, dict[str, Scored]]:
    """Task → model or baseline → its units at the learning rate with the best mean validation score over the seeds."""
    found: dict[str, dict[str, list[UnitResult]]] = {
        task.name: {} for task in recipe.finetune.tasks
    }
    for unit in read_units(recipe):
        found[unit.task].setdefault(unit.model, []).append(unit)
    return {
        task: {
            model: Scored(_at_best_rate(units), recipe.finetune.resamples)
            for model, units in models.items()
        }
        for task, models in found.items()
    }


def compare(a: Scored, b: Scored, metric: str) -> Difference:
    """Paired bootstrap of a - b over the same test rows. metric: a name in `scores`.

    Seeds are averaged within each resample, so that what is asked is whether the models differ on other rows of this kind.
    Raises DataError when they were not scored on the same rows.
    """
    part = metric.rpartition("/")[0]
    rows = {
        tuple(zip(found.rows, found.references, strict=True))
        for found in (unit.predictions(part) for unit in (*a.units, *b.units))
    }
    if len(rows) != 1:
        raise DataError(
            f"{a.units[0].root} and {b.units[0].root} were not scored on the same rows: fine-tune both again"
        )
    return difference(a.columns(metric), b.columns(metric), a.resamples)


def _at_best_rate(units: Sequence[UnitResult]) -> list[UnitResult]:
    rates = [
        (unit.learning_rate, unit.validation[unit.metric])
        for unit in units
        if unit.learning_rate is not None
    ]
    if not rates:
        return list(units)
    best = best_rate(rates)
    return [unit for unit in units if unit.learning_rate == best]


def _outputs(recipe: Recipe, task: Task) -> list[Output]:
    found = []
    for model in recipe.finetune.models:
        for unit in units_of(recipe, task, model):
            try:
                if unit.complete():
                    found.append(unit.output)
            except PipelineError:
                break  # its model is not made yet, or it was made from something else
    return found


def _baselines(recipe: Recipe, task: Task) -> list[Output]:
    found = []
    for name in recipe.finetune.baselines:
        try:
            output = baseline_output(recipe, task, name)
            if suits(name, task) and output.complete():
                found.append(output)
        except PipelineError:
            continue
    return found


def _read(task: Task, root: Path) -> UnitResult:
    record: dict[str, Any] = json.loads((root / "metrics.json").read_text(encoding="utf-8"))
    return UnitResult(root=root, settings=task, **record)
