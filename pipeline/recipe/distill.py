"""Sections of stage 3, the direct student, and of stage 4, the chain."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.recipe.objective import Objective
from pipeline.recipe.optimisation import Optimisation
from pipeline.recipe.section import (
    ByContent,
    Fraction,
    Naming,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Watching,
)
from pipeline.recipe.student import InitChoice, ModelShape
from pipeline.recipe.teacher import Teacher


class ShareSchedule(Section):
    """A share that moves linearly from `start` to `end` over `steps` optimiser steps.

    It stays at `end` from then on.
    """

    start: Fraction
    """The share at the first step."""
    end: Fraction
    """The share after `steps` steps."""
    steps: PositiveInt
    """Optimiser steps from `start` to `end`."""


def _kind_of_share(value: Any) -> str:
    return "number" if isinstance(value, (int, float, str)) else "schedule"


Share = Annotated[
    Annotated[Fraction, Tag("number")] | Annotated[ShareSchedule, Tag("schedule")],
    Discriminator(_kind_of_share),
]


class Original(Section):
    """A second teacher whose cached targets share in the objective."""

    teacher: Annotated[Teacher, ByContent]
    """The second teacher. The fingerprint of its cache decides content."""
    weight: Share
    """Its share λ of the objective; the teacher of the recipe keeps 1 - λ."""


class Distill(Optimisation):
    """Stage 3: training of the student, or of any model with the LM loss alone."""

    name: Annotated[str, Naming] = "student"
    """The name of the result below RUN/distill/."""
    objective: Objective = Objective()
    """Targets that the student is trained to match."""
    targets: Literal["states", "sampled", "topk", "online"] = "states"
    """Where the teacher's side of the objective comes from: a kind of target in its cache, or the
    teacher itself at every step."""
    samples: Annotated[NonNegativeInt, Watching] = 2
    """The number of validation rows for which TensorBoard shows what the student writes."""
    original: Original | None = None
    """The second teacher that `interpolated.original_weight` sets for the links after the first."""


class Assistant(ModelShape):
    """An assistant listed by hand."""

    init: InitChoice | None = None
    """First weights, as in `student.init`. When absent, the student's."""


def _kind_of_assistants(value: Any) -> str:
    if isinstance(value, str):
        return "name"
    return "list" if isinstance(value, (list, tuple)) else "number"


class Interpolated(Section):
    """Stage 4: a chain of assistants between teacher and student (docs/interpolation.md).

    Each link is a recipe of its own, trained with the settings of `distill`.
    """

    name: Annotated[str, Naming] = "student"
    """The name of the result below RUN/distill_interpolated/."""
    assistants: Annotated[
        Annotated[PositiveInt, Tag("number")]
        | Annotated[Literal["auto"], Tag("name")]
        | Annotated[list[Assistant], Field(min_length=1), Tag("list")],
        Discriminator(_kind_of_assistants),
    ] = 1
    """A number of assistants of interpolated sizes; or `auto`: as few as leave no link over 2.5:1
    in non-embedding parameters; or a list of their shapes."""
    step_shares: list[PositiveFloat] | None = None
    """Share of `distill.max_steps` that each link takes, teacher side first; equal when absent."""
    original_weight: Share = 0.0
    """From the second link on, the share of the objective that compares with the original
    teacher's cache instead of the link's own teacher's; constant, or scheduled over the link's
    steps."""
