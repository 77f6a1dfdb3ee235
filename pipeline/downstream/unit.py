"""One model on one task: where its artifact lies and what it is made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pipeline.artifacts import Output
from pipeline.artifacts.content import resolve_model
from pipeline.console import say
from pipeline.downstream.encode import Encoded, encode
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.lineage import finetune_output
from pipeline.recipe import FineTune, Recipe, Task
from pipeline.stage_args import environment_rank


@dataclass(frozen=True)
class Unit:
    """One model on one task."""

    recipe: Recipe
    model: str
    task: Task

    @cached_property
    def output(self) -> Output:
        root = self.recipe.root / "finetune" / self.recipe.finetune.name / self.task.name / self.model
        return finetune_output(self.recipe, self.model, self.task, root)

    @cached_property
    def directory(self) -> Path:
        """The model to fine-tune."""
        return resolve_model(self.recipe.finetune.models[self.model])

    @property
    def settings(self) -> FineTune:
        return self.recipe.finetune.for_task(self.task)

    def encode(self, examples: Examples, data: TaskData, tokenizer: Any) -> Encoded:
        """Tokenise `examples`, and say how many were too long."""
        encoded = encode(tokenizer, examples, data)
        for what, count, length in (
            ("sources", encoded.cut_sources, self.task.source_length),
            ("targets", encoded.cut_targets, self.task.target_length),
        ):
            if count:
                say_once(
                    f"task {self.task.name}: {count} of {len(examples)} {what} of {examples.origin} were cut to {length} tokens"
                )
        return encoded

    def __str__(self) -> str:
        return f"{self.task.name}/{self.model}"


@cache
def say_once(message: str) -> None:
    """Print from rank 0 alone, and not again for the next model that meets the same."""
    if environment_rank()[0] == 0:
        say(message)
