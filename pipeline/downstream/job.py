"""Jobs of a comparison: the place of each artifact, and everything that decides its content.

A job is plain data. Its model and files are opened and hashed when its `output` is first asked
for: the model may not be made yet, and the teacher not fine-tuned yet. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.artifacts import Output
from pipeline.corpus.source_identity import source_hash
from pipeline.errors import IncompleteArtifact
from pipeline.models import ModelDirectory, open_model
from pipeline.recipe import FineTune, LogitsDistillation, Task
from pipeline.recipe.finetune import Data
from pipeline.training.identity import optimisation_payload

#: Format versions: bump one by hand when the same settings give other content.
FINETUNE_FORMAT = 3
DISTILLED_FORMAT = 1


@dataclass(frozen=True, eq=False)
class ComparedModel:
    """One of the models compared; all its jobs share it, so it is opened once."""

    name: str
    #: The directory or hub name in the recipe.
    source: str

    @cached_property
    def directory(self) -> ModelDirectory:
        """Open the model to fine-tune; raises ConfigError while it is not there."""
        return open_model(self.source)


@dataclass(frozen=True, eq=False)
class FineTuneJob:
    """One model on one task with one seed and one learning rate: a unit of the comparison."""

    #: RUN/finetune/<name>/<task>/<model>/<trial>
    root: Path
    task: Task
    model: ComparedModel
    #: With the steps of the task and the learning rate of this job.
    settings: FineTune
    seed: int
    #: None for a model that learns from gold targets alone.
    signal: TeacherSignal | None
    #: The recipe as YAML, recorded with the artifact.
    recipe: str

    @property
    def trial(self) -> str:
        return self.root.name

    @property
    def learning_rate(self) -> float:
        return self.settings.learning_rate

    @property
    def is_taught(self) -> bool:
        """Return whether it needs the fine-tuned teacher."""
        return self.signal is not None

    @property
    def data(self) -> Data:
        """The targets it is trained on."""
        return self.signal.data if self.signal is not None else "gold"

    @property
    def hf(self) -> Path:
        """The directory of the fine-tuned weights."""
        return self.root / "hf"

    @cached_property
    def output(self) -> Output:
        """The artifact; raises IncompleteArtifact while its teacher is not fine-tuned yet."""
        taught = self.signal.payload() if self.signal is not None else None
        directory = self.model.directory
        payload = _task_payload(self.task) | {
            "stage": "finetune",
            "format": FINETUNE_FORMAT,
            "seed": self.seed,
            "model": directory.content,
            "tokenizer": directory.tokenizer_content,
            "settings": optimisation_payload(self.settings),
        }
        if taught is not None:
            payload["taught"] = taught
        return Output(self.root, "finetune", payload, self.recipe, {})

    def complete(self) -> bool:
        """Return whether it is finished; raises StaleArtifact for a directory made otherwise."""
        try:
            return self.output.complete()
        except IncompleteArtifact:
            if self.is_taught:
                return False
            raise

    def __str__(self) -> str:
        return f"{self.task.name}/{self.model.name}/{self.trial}"


@dataclass(frozen=True, eq=False)
class BaselineJob:
    """A baseline on one task: it needs no model and leaves the same files as a model does."""

    #: RUN/finetune/<name>/<task>/<baseline>/baseline
    root: Path
    task: Task
    name: str
    validation_rows: int
    resamples: int
    #: The recipe as YAML, recorded with the artifact.
    recipe: str

    @cached_property
    def output(self) -> Output:
        payload = _task_payload(self.task) | {
            "stage": "finetune",
            "format": FINETUNE_FORMAT,
            "baseline": self.name,
            "settings": {"validation_rows": self.validation_rows, "resamples": self.resamples},
        }
        return Output(self.root, "finetune", payload, self.recipe, {})

    def complete(self) -> bool:
        """Return whether it is finished; raises StaleArtifact for a directory made otherwise."""
        return self.output.complete()

    def __str__(self) -> str:
        return f"{self.task.name}/{self.name}/baseline"


@dataclass(frozen=True, eq=False)
class TaskTeacher:
    """The model that teaches the others one task: its jobs, and the rows it labels for them."""

    task: Task
    #: One for each seed and learning rate.
    jobs: tuple[FineTuneJob, ...]
    #: RUN/distilled/<name>/<task>
    root: Path
    #: Rows in each shard of `labelled`.
    shard_rows: int
    validation_rows: int
    #: The recipe as YAML, recorded with the artifact.
    recipe: str

    @property
    def name(self) -> str:
        return self.jobs[0].model.name

    @cached_property
    def chosen(self) -> FineTuneJob:
        """The job whose weights teach: the first seed of the best learning rate in validation.

        Raises IncompleteArtifact when one of the teacher's jobs is not finished.
        """
        for job in self.jobs:
            if not job.output.complete():
                raise IncompleteArtifact(
                    f"the teacher {job} is not fine-tuned yet: run stage finetune for it first"
                )
        rate = best_rate((job.learning_rate, _validation_score(job)) for job in self.jobs)
        return next(job for job in self.jobs if job.learning_rate == rate)

    @cached_property
    def labelled(self) -> Output:
        """The targets it gives to unlabelled rows; raises IncompleteArtifact as `chosen` does."""
        task = self.task
        payload = {
            "stage": "distilled",
            "format": DISTILLED_FORMAT,
            "teacher": self.chosen.output.fingerprint,
            "task": task.identity(),
            "rows": source_hash(task.unlabelled or task.train),
            "settings": {"shard_rows": self.shard_rows},
        }
        if task.unlabelled is None and task.validation is None:
            # Then some of the training rows are held out, and the teacher does not label these.
            payload["validation_rows"] = self.validation_rows
        return Output(self.root, "distilled", payload, self.recipe, {})


@dataclass(frozen=True, eq=False)
class TeacherSignal:
    """Lessons of one model from the fine-tuned teacher: labelled rows, logits, or both."""

    data: Data
    logits: LogitsDistillation | None
    teacher: TaskTeacher

    def payload(self) -> dict[str, Any]:
        """Return its part of an identity; raises IncompleteArtifact without the teacher."""
        chosen = self.teacher.chosen
        payload: dict[str, Any] = {"data": self.data}
        if self.data != "gold":
            payload["distilled"] = self.teacher.labelled.fingerprint
        if self.logits is not None:
            payload |= {
                "logits": chosen.output.fingerprint,
                "objective": self.logits.model_dump(),
            }
        return payload


def best_rate(scores: Iterable[tuple[float, float]]) -> float:
    """Return the learning rate with the best mean score; the smallest where several are equal.

    scores: pairs of a learning rate and a validation score.
    """
    by_rate: dict[float, list[float]] = {}
    for rate, score in scores:
        by_rate.setdefault(rate, []).append(score)
    return max(sorted(by_rate), key=lambda rate: fmean(by_rate[rate]))


def _validation_score(job: FineTuneJob) -> float:
    record = json.loads((job.root / "metrics.json").read_text(encoding="utf-8"))
    return float(record["validation"][job.task.judged_by])


def _task_payload(task: Task) -> dict[str, Any]:
    files = {
        part: getattr(task, part) for part in ("train", "validation", "test") if getattr(task, part)
    }
    files |= {f"more_tests.{name}": origin for name, origin in task.more_tests.items()}
    return {
        "task": task.identity(),
        "data": {part: source_hash(source) for part, source in files.items()},
    }
