"""The objective, the direct student and the chain."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.recipe.base import Fraction, NonNegativeInt, PositiveInt, Section
from pipeline.recipe.student import InitChoice, ModelShape
from pipeline.recipe.teacher import Teacher
from pipeline.recipe.training import Optimisation


class Schedule(Section):
    """A weight that moves linearly from `start` to `end` over `steps` optimiser steps, and stays there."""

    start: Annotated[float, Field(ge=0.0)]
    end: Annotated[float, Field(ge=0.0)]
    steps: PositiveInt


class Taid(Section):
    """Adaptive interpolation of the target, from the student's distribution to the teacher's (arXiv 2501.16937)."""

    #: The teacher's share of the target at the first step.
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.4
    alpha: Annotated[float, Field(gt=0.0)] = 5e-4
    beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99


#: A block counted from the end of its stack: -1 is the last.
FromEnd = Annotated[int, Field(le=-1)]


class Blocks(Section):
    """Which block's q, k and v the relation and attention parts compare."""

    #: When absent the block at the cache's cut, or the last one with `targets: online`.
    teacher_encoder: FromEnd | None = None
    teacher_decoder: FromEnd | None = None
    student_encoder: FromEnd = -1
    student_decoder: FromEnd = -1


class HiddenPair(Section):
    """Two places whose hidden states the part `hidden` compares: the states entering a block, or the stack's output."""

    stack: Literal["encoder", "decoder"]
    teacher: FromEnd | Literal["output"] = "output"
    student: FromEnd | Literal["output"] = "output"


class Objective(Section):
    preset: Literal["lm", "logits", "minilm", "minilm_v1", "tinybert", "miniend"] = "miniend"
    #: Weights that differ from the preset's, by part (pipeline/objectives/presets.py lists them); constant or scheduled.
    weights: dict[str, Annotated[float, Field(ge=0.0)] | Schedule] = {}
    #: How the part `logits` compares distributions, where full logits of the teacher are at hand (docs/objectives.md).
    divergence: Literal[
        "forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl"
    ] = "forward_kl"
    #: The mixing coefficient of jensen_shannon (0.5 when absent) and of the skewed kinds (0.1 when absent).
    alpha: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    taid: Taid | None = None
    #: Relation heads the q/k/v are re-split into; when absent the most, up to the student's heads, that both widths divide into.
    relation_heads: PositiveInt | None = None
    blocks: Blocks = Blocks()
    hidden: list[HiddenPair] = Field(
        default=[HiddenPair(stack="encoder"), HiddenPair(stack="decoder")], min_length=1
    )
    hidden_kind: Literal["mse", "cosine"] = "mse"


def _kind_of_share(value: Any) -> str:
    return "number" if isinstance(value, (int, float, str)) else "schedule"


class ShareSchedule(Section):
    """A share that moves linearly from `start` to `end` over `steps` optimiser steps, and stays there."""

    start: Fraction
    end: Fraction
    steps: PositiveInt


Share = Annotated[
    Annotated[Fraction, Tag("number")] | Annotated[ShareSchedule, Tag("schedule")],
    Discriminator(_kind_of_share),
]


class Original(Section):
    """A second teacher whose cached targets share in the objective."""

    teacher: Teacher
    #: Its share λ of the objective; the teacher of the recipe keeps 1 - λ.
    weight: Share


class Distill(Optimisation):
    #: The name of the result below RUN/distill/.
    name: str = "student"
    objective: Objective = Objective()
    #: Where the teacher's side of the objective comes from: a kind of target in its cache, or the teacher itself at every step.
    targets: Literal["states", "sampled", "topk", "online"] = "states"
    #: Of how many validation rows TensorBoard shows what the student writes.
    samples: NonNegativeInt = 2
    #: What `interpolated.original_weight` sets for the links after the first.
    original: Original | None = None


class Assistant(ModelShape):
    """An assistant listed by hand."""

    #: As `student.init`, and the student's when absent.
    init: InitChoice | None = None


def _kind_of_assistants(value: Any) -> str:
    return (
        "list"
        if isinstance(value, (list, tuple))
        else "name"
        if isinstance(value, str)
        else "number"
    )


class Interpolated(Section):
    #: The name of the result below RUN/distill_interpolated/.
    name: str = "student"
    #: So many, of interpolated sizes; `auto`, as few as leave no link over 2.5:1 in non-embedding parameters; or their shapes.
    assistants: Annotated[
        Annotated[PositiveInt, Tag("number")]
        | Annotated[Literal["auto"], Tag("name")]
        | Annotated[list[Assistant], Field(min_length=1), Tag("list")],
        Discriminator(_kind_of_assistants),
    ] = 1
    #: Share of `distill.max_steps` each link takes, teacher side first; equal when absent.
    step_shares: list[Annotated[float, Field(gt=0.0)]] | None = None
    #: From the second link on, the share of the objective that compares with the original teacher's cache instead of the link's own
    #: teacher's; constant, or scheduled over the link's steps.
    original_weight: Share = 0.0
