"""Sections of the teacher and of what is cached from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from pipeline.recipe.section import (
    ByContent,
    Dtype,
    Naming,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Watching,
)


class Teacher(Section):
    """The model that the student learns from."""

    model: Annotated[str, ByContent]
    """A Transformers directory or hub name."""
    name: Annotated[str, Naming] = "teacher"
    """The name of its cache below RUN/teacher_cache/."""
    dtype: Dtype = "auto"
    """The dtype it computes in. `auto` is bfloat16 where the machine multiplies fast in it,
    else float32; the resolved dtype decides content."""
    deepspeed: Annotated[str | None, Watching] = None
    """A DeepSpeed JSON (ds_configs/zero3_inference.json) for a teacher too large for one device.
    The teacher is then partitioned over the ranks."""


class States(Section):
    """Hidden states at the cut, from which the tail replays everything after it."""

    dtype: Literal["auto", "bfloat16", "float32", "int8"] = "auto"
    """Type in which they are stored; `auto` is the dtype the teacher computes in.
    int8 has a bfloat16 scale for every group."""
    group_size: PositiveInt = 64
    """Features that share one int8 scale. Counts with `dtype: int8` only."""
    outliers: NonNegativeInt = 8
    """Number of the largest values of each row that are kept in bfloat16 next to int8.
    Counts with `dtype: int8` only."""
    encoder_output: bool = False
    """Store the encoder's output too. An objective that compares nothing in the encoder's blocks
    then replays the decoder alone."""

    def identity(self) -> dict[str, JsonValue]:
        int8_only = () if self.dtype == "int8" else ("group_size", "outliers")
        return {key: value for key, value in super().identity().items() if key not in int8_only}


class Sampled(Section):
    """Unbiased sparse logits (arXiv 2503.16870)."""

    draws: Annotated[int, Field(ge=1, le=1000)] = 50
    """Draws from the teacher's distribution at each target position."""
    temperature: PositiveFloat = 1.0
    """The temperature of the teacher's distribution that is drawn from."""
    method: Literal["independent", "systematic"] = "independent"
    """`independent` draws, as in the paper, or `systematic` ones: also unbiased, with less
    variance."""


class Topk(Section):
    """The most probable tokens at each target position and the mass of all others; biased."""

    k: PositiveInt = 50
    """Tokens kept at each target position."""


TargetKind = Literal["states", "sampled", "topk"]


class Cache(Section):
    """Targets that one pass of the teacher stores.

    Settings of kinds that are not cached do not count.
    """

    kinds: list[TargetKind] = Field(default=["states"], min_length=1)
    """The kinds of target to store, in one pass of the teacher. Their order does not count."""
    encoder_cut: int = -1
    """Block of the encoder whose input is stored; negative counts from the end."""
    decoder_cut: int = -1
    """Block of the decoder whose input is stored; negative counts from the end."""
    states: States = States()
    """Settings of the kind `states`."""
    sampled: Sampled = Sampled()
    """Settings of the kind `sampled`."""
    topk: Topk = Topk()
    """Settings of the kind `topk`."""
    batch_size: PositiveInt = 16
    """Examples in one teacher forward pass. It counts because other batches round otherwise."""

    def identity(self) -> dict[str, JsonValue]:
        absent = {"states", "sampled", "topk"} - set(self.kinds)
        if "states" in absent:
            absent |= {"encoder_cut", "decoder_cut"}
        kept = {key: value for key, value in super().identity().items() if key not in absent}
        return kept | {"kinds": [*sorted(self.kinds)]}
