"""Section of the objective: which parts compare student and teacher, where, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section

DivergenceKind = Literal["forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl"]
#: A block counted from the end of its stack: -1 is the last.
FromEnd = Annotated[int, Field(le=-1)]


class Schedule(Section):
    """A weight that moves linearly from `start` to `end` over `steps` optimiser steps.

    It stays at `end` from then on.
    """

    start: NonNegativeFloat
    """The weight at the first step."""
    end: NonNegativeFloat
    """The weight after `steps` steps."""
    steps: PositiveInt
    """Optimiser steps from `start` to `end`."""


class Taid(Section):
    """Adaptive interpolation of the target (arXiv 2501.16937).

    The target moves from the student's distribution to the teacher's.
    """

    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.4
    """The teacher's share of the target at the first step."""
    alpha: PositiveFloat = 5e-4
    """Speed at which the share grows."""
    beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """Decay rate of the momentum that follows the change of the loss."""


class Blocks(Section):
    """Blocks whose q, k and v the relation and attention parts compare, counted from the end."""

    teacher_encoder: FromEnd | None = None
    """Block of the teacher's encoder.
    When absent, the block at the cache's cut, or the last one with `targets: online`."""
    teacher_decoder: FromEnd | None = None
    """Block of the teacher's decoder.
    When absent, the block at the cache's cut, or the last one with `targets: online`."""
    student_encoder: FromEnd = -1
    """Block of the student's encoder."""
    student_decoder: FromEnd = -1
    """Block of the student's decoder."""


class HiddenPair(Section):
    """Two places whose hidden states the part `hidden` compares.

    A place is a block counted from the end, for the states that enter it, or `output`, for the
    stack's output.
    """

    stack: Literal["encoder", "decoder"]
    """The stack of both models."""
    teacher: FromEnd | Literal["output"] = "output"
    """The place in the teacher."""
    student: FromEnd | Literal["output"] = "output"
    """The place in the student."""


class Objective(Section):
    """Targets that the student is trained to match (docs/objectives.md)."""

    preset: Literal["lm", "logits", "minilm", "minilm_v1", "tinybert", "miniend"] = "miniend"
    """The named set of weights to start from (pipeline/objectives/presets.py)."""
    weights: dict[str, NonNegativeFloat | Schedule] = {}
    """Weights that differ from the preset's, by part (pipeline/objectives/presets.py lists them);
    constant or scheduled."""
    divergence: DivergenceKind = "forward_kl"
    """Divergence by which the part `logits` compares distributions, where full logits of the
    teacher are at hand (docs/objectives.md)."""
    alpha: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """The mixing coefficient of jensen_shannon (0.5 when absent) and of the skewed kinds (0.1 when
    absent)."""
    temperature: PositiveFloat = 1.0
    """The temperature at which the part `logits` compares distributions."""
    taid: Taid | None = None
    """Adaptive interpolation of the target; off when absent."""
    relation_heads: PositiveInt | None = None
    """Relation heads that q, k and v are split into again. When absent, the largest number up to
    the student's heads that divides both widths."""
    blocks: Blocks = Blocks()
    """The blocks that the relation and attention parts compare."""
    hidden: list[HiddenPair] = Field(
        default=[HiddenPair(stack="encoder"), HiddenPair(stack="decoder")], min_length=1
    )
    """The places that the part `hidden` compares."""
    hidden_kind: Literal["mse", "cosine"] = "mse"
    """Distance by which the part `hidden` compares states."""
