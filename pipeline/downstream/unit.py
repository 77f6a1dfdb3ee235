"""One model on one task with one seed and one learning rate: where its artifact lies and what it is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.artifacts import Output
from pipeline.errors import IncompleteArtifact
from pipeline.lineage import distilled_output, finetune_output
from pipeline.models import open_model
from pipeline.recipe import Candidate, FineTune, Recipe, Task


@dataclass(frozen=True)
class Unit:
    recipe: Recipe
    task: Task
    model: str
    seed: int
    learning_rate: float

    @property
    def trial(self) -> str:
        """The name of its directory among the model's: the rate only where it is swept."""
        swept = len(self.recipe.finetune.rates(self.task)) > 1
        return f"seed-{self.seed}.rate-{self.learning_rate:g}" if swept else f"seed-{self.seed}"

    @cached_property
    def output(self) -> Output:
        """Raises IncompleteArtifact while a teacher that it learns from is not fine-tuned yet."""
        taught = {}
        if self.is_taught:
            lesson = teacher_of(self.recipe, self.task)
            if self.settings.data_of(self.model) != "gold":
                taught["distilled"] = distilled(self.recipe, self.task).fingerprint
            if self.candidate.logits is not None:
                taught["logits"] = lesson.output.fingerprint
        return finetune_output(
            self.recipe, self.task, self.model, self.trial, self.seed, self.learning_rate, taught
        )

    @property
    def candidate(self) -> Candidate:
        return self.recipe.finetune.models[self.model]

    @property
    def is_taught(self) -> bool:
        return self.recipe.finetune.is_taught(self.model)

    @cached_property
    def directory(self) -> Path:
        """The model to fine-tune."""
        return open_model(self.candidate.model).path

    @cached_property
    def settings(self) -> FineTune:
        return self.recipe.finetune.for_task(self.task, self.learning_rate)

    def complete(self) -> bool:
        """Whether it is finished; raises StaleArtifact when its directory was made from something else."""
        try:
            return self.output.complete()
        except IncompleteArtifact:
            if self.is_taught:
                return False
            raise

    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds."""
        record: dict[str, Any] = json.loads(
            (self.output.root / "metrics.json").read_text(encoding="utf-8")
        )
        return record

    def __str__(self) -> str:
        return f"{self.task.name}/{self.model}/{self.trial}"


def units_of(recipe: Recipe, task: Task, model: str) -> list[Unit]:
    """Every unit of one model on one task, seeds first."""
    settings = recipe.finetune
    seeds = settings.seeds if settings.seeds is not None else [recipe.seed]
    return [
        Unit(recipe, task, model, seed, rate) for rate in settings.rates(task) for seed in seeds
    ]


def best_rate(found: Iterable[tuple[float, float]]) -> float:
    """The learning rate with the best mean score; pairs are (rate, validation score). Of equals the smallest."""
    scores: dict[float, list[float]] = {}
    for rate, score in found:
        scores.setdefault(rate, []).append(score)
    return max(sorted(scores), key=lambda rate: fmean(scores[rate]))


def teacher_of(recipe: Recipe, task: Task) -> Unit:
    """The unit whose weights teach the others: the first seed of the learning rate that validation chose.

    Raises IncompleteArtifact when a unit of the teacher is not finished.
    """
    assert recipe.finetune.teacher is not None
    units = units_of(recipe, task, recipe.finetune.teacher)
    for unit in units:
        if not unit.output.complete():
            raise IncompleteArtifact(
                f"the teacher {unit} is not fine-tuned yet: run stage finetune for it first"
            )
    rate = best_rate(
        (unit.learning_rate, unit.metrics()["validation"][task.judged_by]) for unit in units
    )
    return next(unit for unit in units if unit.learning_rate == rate)


def distilled(recipe: Recipe, task: Task) -> Output:
    """RUN/distilled/<name>/<task>; raises IncompleteArtifact while the teacher is not fine-tuned."""
    return distilled_output(recipe, task, teacher_of(recipe, task).output)
