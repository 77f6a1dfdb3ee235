"""Downstream tasks and the models compared on them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import PositiveInt, Section
from pipeline.recipe.training import Optimisation


class Task(Section):
    """A text-to-text task over local files or a `datasets` name (`hub:NAME[:CONFIG]`)."""

    name: str
    kind: Literal["classification", "generation"]
    train: str
    validation: str | None = None
    test: str
    #: Python format strings over a row's fields, e.g. "summarize: {extract}".
    source: str
    target: str
    #: The label texts of a classification task; those of the training rows when absent.
    labels: list[str] | None = None
    drop_labels: list[str] = []
    source_length: PositiveInt = 128
    target_length: PositiveInt = 32
    #: Score at most this many test rows.
    test_rows: PositiveInt | None = None
    #: Steps for this task where they differ from `finetune.max_steps`.
    max_steps: PositiveInt | None = None
    #: Learning rate for this task where it differs from `finetune.learning_rate`.
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None


class FineTune(Optimisation):
    name: str = "comparison"
    deepspeed: str = "ds_configs/zero2_finetune.json"
    #: Models to compare, by name: a Transformers directory or hub name each.
    models: dict[str, str] = {}
    tasks: list[Task] = []

    def for_task(self, task: Task) -> FineTune:
        """The settings `task` is trained with: these, but for what the task itself says."""
        own = {"max_steps": task.max_steps, "learning_rate": task.learning_rate}
        return self.model_copy(update={name: value for name, value in own.items() if value is not None})
