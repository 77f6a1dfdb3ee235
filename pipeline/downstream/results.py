"""Results of the finished units of a comparison: means over seeds, and paired tests.

For several learning rates, those of the rate with the best validation score. Nothing is run again:
`metrics.json` and `predictions.jsonl` of each unit hold all that is needed (docs/downstream.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

from pipeline.downstream.bootstrap import MetricColumn, PairedDifference, difference, interval
from pipeline.downstream.comparison import Comparison, TaskJobs
from pipeline.downstream.job import BaselineJob, FineTuneJob, best_rate
from pipeline.downstream.task_metrics import Predictions, metric_column
from pipeline.downstream.unit_record import UnitRecord, predictions_file
from pipeline.errors import DataError, PipelineError
from pipeline.recipe import Task


@dataclass(frozen=True, kw_only=True)
class UnitResult(UnitRecord):
    """One finished unit: the fields of its metrics.json, its directory and its task."""

    root: Path
    #: The task in the recipe.
    settings: Task

    @classmethod
    def read(cls, job: FineTuneJob | BaselineJob) -> UnitResult:
        record = json.loads((job.root / "metrics.json").read_text(encoding="utf-8"))
        return cls(root=job.root, settings=job.task, **record)

    def predictions(self, part: str = "") -> Predictions:
        """Return those of the test rows, or of one of the task's `more_tests`."""
        return Predictions.parse((self.root / predictions_file(part)).read_text(encoding="utf-8"))

    def column(self, metric: str) -> MetricColumn:
        """Return its rows as one metric sees them. metric: a name in `scores`."""
        part, _, name = metric.rpartition("/")
        return metric_column(self.settings, self.predictions(part), name, self.positive)


@dataclass(frozen=True)
class Scored:
    """One model on one task: its units with the chosen learning rate, one a seed."""

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
        """Return the sample standard deviation over the seeds; None for one seed."""
        several = len(self.units) > 1
        return {
            metric: stdev(unit.scores[metric] for unit in self.units) if several else None
            for metric in self.units[0].scores
        }

    @cached_property
    def interval(self) -> Mapping[str, tuple[float, float]]:
        """Return the 95 % intervals of the mean over the seeds, by bootstrap over the test rows."""
        if len(self.units) == 1:
            return {metric: (low, high) for metric, (low, high) in self.units[0].intervals.items()}
        return {
            metric: interval(self.columns(metric), self.resamples)
            for metric in self.units[0].scores
        }

    def columns(self, metric: str) -> list[MetricColumn]:
        return [unit.column(metric) for unit in self.units]


def read_units(comparison: Comparison) -> list[UnitResult]:
    """Read every finished unit, on each task the baselines last.

    A unit that was made from something else is skipped.
    """
    finished: list[FineTuneJob | BaselineJob] = []
    for task in comparison.tasks:
        finished += _finished_jobs(task)
        finished += _finished_baselines(task)
    return [UnitResult.read(job) for job in finished]


def chosen(comparison: Comparison) -> dict[str, dict[str, Scored]]:
    """Return task → model or baseline → its units at the best learning rate.

    The best is the one with the best mean validation score over the seeds.
    """
    units: dict[str, dict[str, list[UnitResult]]] = {task.name: {} for task in comparison.tasks}
    for unit in read_units(comparison):
        units[unit.task].setdefault(unit.model, []).append(unit)
    return {
        task: {
            model: Scored(_at_best_rate(of_model), comparison.resamples)
            for model, of_model in by_model.items()
        }
        for task, by_model in units.items()
    }


def compare(a: Scored, b: Scored, metric: str) -> PairedDifference:
    """Return a - b with its paired bootstrap over the same test rows. metric: a name in `scores`.

    Seeds are averaged within each resample: the question is if the models differ on other rows of
    this kind. Raises DataError when they were not scored on the same rows.
    """
    part = metric.rpartition("/")[0]
    predictions = [unit.predictions(part) for unit in (*a.units, *b.units)]
    rows = {tuple(zip(paired.rows, paired.references, strict=True)) for paired in predictions}
    if len(rows) != 1:
        raise DataError(
            f"{a.units[0].root} and {b.units[0].root} were not scored on the same rows: "
            "fine-tune both again"
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


def _finished_jobs(task: TaskJobs) -> list[FineTuneJob]:
    finished = []
    for jobs in task.by_model().values():
        for job in jobs:
            try:
                if job.complete():
                    finished.append(job)
            except PipelineError:
                break  # its model is not made yet, or the unit was made from something else
    return finished


def _finished_baselines(task: TaskJobs) -> list[BaselineJob]:
    finished = []
    for job in task.baselines:
        try:
            if job.complete():
                finished.append(job)
        except PipelineError:
            continue
    return finished
