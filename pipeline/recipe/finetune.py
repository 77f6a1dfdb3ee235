"""Downstream: the models compared, on which tasks, and how each is fine-tuned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.recipe.base import Fraction, NonNegativeInt, PositiveInt, Section
from pipeline.recipe.task import Task
from pipeline.recipe.training import Optimisation

Data = Literal["gold", "distilled", "both"]
Rate = Annotated[float, Field(gt=0.0)]


class LogitsDistillation(Section):
    """Divergence from the fine-tuned teacher's next-token distributions, beside the cross-entropy of the targets."""

    #: (1 - weight) × cross-entropy + weight × divergence.
    weight: Fraction = 0.5
    divergence: Literal[
        "forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl"
    ] = "forward_kl"
    temperature: Annotated[float, Field(gt=0.0)] = 1.0


class Candidate(Section):
    """A model to compare. In a recipe, `student: DIRECTORY` is short for `student: {model: DIRECTORY}`."""

    #: A Transformers directory or hub name.
    model: str
    #: What it is trained on, where that differs from `finetune.data`.
    data: Data | None = None
    logits: LogitsDistillation | None = None


class FineTune(Optimisation):
    name: str = "comparison"
    deepspeed: str = "ds_configs/zero2_finetune.json"
    #: The weights of the best validation, by the task's first metric; `patience` goes by the same.
    export: Literal["last", "best"] = "best"
    #: Models to compare, by name.
    models: dict[str, Candidate] = {}
    #: Each a task, the path of a task file (tasks/sst2.yaml), or {file: PATH, …} with what differs from that file.
    tasks: list[Task] = []
    #: One unit for each; `seed` of the recipe when absent.
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] | None = None
    #: A sweep: one unit for each, of which the validation metric chooses. `learning_rate` alone when absent.
    learning_rates: Annotated[list[Rate], Field(min_length=1)] | None = None
    #: Batches of examples of similar length: so many batches are drawn together and sorted. 1 does not sort.
    bucket_batches: PositiveInt = 16
    #: Judged beside the models: TF-IDF with logistic (ridge) regression; the first words of the source.
    baselines: list[Literal["tfidf", "lead"]] = []
    #: Targets of the training rows, a teacher's for unlabelled rows (sequence-level distillation, arXiv 1606.07947), or both.
    data: Data = "gold"
    #: The one of `models` whose fine-tuned weights label rows and give logits.
    teacher: str | None = None
    #: Rows of a shard of what the teacher labels.
    shard_rows: PositiveInt = 1000
    #: Resamples of the test rows behind each confidence interval.
    resamples: Annotated[int, Field(ge=100)] = 1000

    @field_validator("models", mode="before")
    @classmethod
    def _named_alone(cls, models: Any) -> Any:
        if not isinstance(models, dict):
            return models
        return {
            name: {"model": entry} if isinstance(entry, str) else entry
            for name, entry in models.items()
        }

    @model_validator(mode="after")
    def _consistent(self) -> FineTune:
        taught = [name for name in self.models if self.is_taught(name)]
        if taught and self.teacher is None:
            raise ValueError(
                f"model {taught[0]} needs finetune.teacher: the one of finetune.models to learn from"
            )
        if self.teacher is not None and self.teacher not in self.models:
            raise ValueError(
                f"teacher {self.teacher!r} is none of finetune.models: {', '.join(self.models) or 'none'}"
            )
        if self.teacher in taught and self.models[self.teacher or ""].logits is not None:
            raise ValueError(f"teacher {self.teacher!r} cannot learn from its own logits")
        for name in self.baselines:
            if name in self.models:
                raise ValueError(f"models: {name} is the name of a baseline")
        for what, values in (("seeds", self.seeds), ("learning_rates", self.learning_rates)):
            if values is not None and len(set(values)) < len(values):
                raise ValueError(f"{what}: each only once")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("tasks: two have the same name")
        return self

    def data_of(self, model: str) -> Data:
        """What `model` is trained on. The teacher itself always learns from gold targets."""
        return "gold" if model == self.teacher else self.models[model].data or self.data

    def is_taught(self, model: str) -> bool:
        """Whether `model` needs the fine-tuned teacher."""
        return self.data_of(model) != "gold" or self.models[model].logits is not None

    def rates(self, task: Task) -> list[float]:
        """The learning rates `task` is trained with."""
        if task.learning_rate is not None:
            return [task.learning_rate]
        return self.learning_rates or [self.learning_rate]

    def for_task(self, task: Task, learning_rate: float) -> FineTune:
        """The settings `task` is trained with: these, but for what the task itself says."""
        return self.model_copy(
            update={"max_steps": task.max_steps or self.max_steps, "learning_rate": learning_rate}
        )
