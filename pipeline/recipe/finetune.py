"""Section of stage 5: the models compared, on which tasks, and how each is fine-tuned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.recipe.objective import DivergenceKind
from pipeline.recipe.optimisation import Optimisation
from pipeline.recipe.section import (
    ByContent,
    Fraction,
    Naming,
    NonNegativeInt,
    PerUnit,
    PositiveFloat,
    PositiveInt,
    Section,
)
from pipeline.recipe.task import Task

Data = Literal["gold", "distilled", "both"]


class LogitsDistillation(Section):
    """Divergence from the fine-tuned teacher's next-token distributions.

    It is trained on together with the cross-entropy of the targets.
    """

    weight: Fraction = 0.5
    """The loss is (1 - weight) × cross-entropy + weight × divergence."""
    divergence: DivergenceKind = "forward_kl"
    """Divergence between the distributions (docs/objectives.md)."""
    temperature: PositiveFloat = 1.0
    """The temperature at which the distributions are compared."""


class Candidate(Section):
    """A model to compare.

    In a recipe, `student: DIRECTORY` is short for `student: {model: DIRECTORY}`.
    """

    model: Annotated[str, ByContent]
    """A Transformers directory or hub name."""
    data: Data | None = None
    """Data it is trained on, where that differs from `finetune.data`."""
    logits: LogitsDistillation | None = None
    """Learn from the fine-tuned teacher's logits too; off when absent."""


def _candidate(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class FineTune(Optimisation):
    """Stage 5: fine-tuning and scoring of several models on several tasks (docs/downstream.md)."""

    name: Annotated[str, Naming] = "comparison"
    """The name of the results below RUN/finetune/."""
    deepspeed: Annotated[str, ByContent] = "ds_configs/zero2_finetune.json"
    """The DeepSpeed JSON. Of its content only `optimizer` decides."""
    export: Literal["last", "best"] = "best"
    """Which weights are scored and become hf/: those after the last step, or those of the best
    validation by the task's first metric. `patience` uses the same metric."""
    models: Annotated[
        dict[
            str,
            Annotated[
                Candidate, BeforeValidator(_candidate, json_schema_input_type=Candidate | str)
            ],
        ],
        PerUnit,
    ] = {}
    """Models to compare, by name."""
    tasks: Annotated[list[Task], PerUnit] = []
    """Each is a task, or the path of a task file (tasks/sst2.yaml), or {file: PATH, …} with what
    differs from that file."""
    seeds: Annotated[Annotated[list[NonNegativeInt], Field(min_length=1)] | None, PerUnit] = None
    """One unit for each. When absent, `seed` of the recipe."""
    learning_rates: Annotated[
        Annotated[list[PositiveFloat], Field(min_length=1)] | None, PerUnit
    ] = None
    """A sweep: one unit for each, among which the validation metric chooses.
    When absent, `learning_rate` alone."""
    bucket_batches: PositiveInt = 16
    """Batches that are drawn together and sorted, so that each holds examples of similar length.
    1 does not sort."""
    baselines: Annotated[list[Literal["tfidf", "lead"]], PerUnit] = []
    """Judged with the models: TF-IDF with logistic (ridge) regression; the first words of the
    source."""
    data: Annotated[Data, PerUnit] = "gold"
    """Targets of the training rows, a teacher's for unlabelled rows (sequence-level distillation,
    arXiv 1606.07947), or both."""
    teacher: Annotated[str | None, PerUnit] = None
    """The one of `models` whose fine-tuned weights label rows and give logits."""
    shard_rows: Annotated[PositiveInt, PerUnit] = 1000
    """Rows in a shard of what the teacher labels."""
    resamples: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the test rows behind each confidence interval."""

    @model_validator(mode="after")
    def _teacher_exists(self) -> FineTune:
        taught = [name for name in self.models if self.is_taught(name)]
        if taught and self.teacher is None:
            raise ValueError(
                f"model {taught[0]} needs finetune.teacher: "
                "the one of finetune.models to learn from"
            )
        if self.teacher is not None and self.teacher not in self.models:
            raise ValueError(
                f"teacher {self.teacher!r} is none of finetune.models: "
                f"{', '.join(self.models) or 'none'}"
            )
        if self.teacher in taught and self.models[self.teacher or ""].logits is not None:
            raise ValueError(f"teacher {self.teacher!r} cannot learn from its own logits")
        return self

    @model_validator(mode="after")
    def _units_differ(self) -> FineTune:
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
        """Return what `model` is trained on. The teacher itself always learns from gold targets."""
        return "gold" if model == self.teacher else self.models[model].data or self.data

    def is_taught(self, model: str) -> bool:
        """Return True if `model` needs the fine-tuned teacher."""
        return self.data_of(model) != "gold" or self.models[model].logits is not None

    def rates(self, task: Task) -> list[float]:
        """Return the learning rates that `task` is trained with."""
        if task.learning_rate is not None:
            return [task.learning_rate]
        return self.learning_rates or [self.learning_rate]

    def for_task(self, task: Task, learning_rate: float) -> FineTune:
        """Return the settings that `task` is trained with: these, except what the task sets."""
        return self.model_copy(
            update={"max_steps": task.max_steps or self.max_steps, "learning_rate": learning_rate}
        )
