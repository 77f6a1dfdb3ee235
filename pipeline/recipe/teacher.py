"""The teacher and what is cached of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import Dtype, NonNegativeInt, PositiveInt, Section


class Teacher(Section):
    #: A Transformers directory or hub name.
    model: str
    #: The name of its cache below RUN/teacher_cache/.
    name: str = "teacher"
    dtype: Dtype = "auto"
    #: A DeepSpeed JSON (ds_configs/zero3_inference.json) for a teacher too large for one device: it runs partitioned over the ranks.
    deepspeed: str | None = None


class States(Section):
    """Hidden states at the cut, from which the tail replays everything after it."""

    #: How they are stored; `auto` is the dtype the teacher computes in. int8 has a bfloat16 scale for every group.
    dtype: Literal["auto", "bfloat16", "float32", "int8"] = "auto"
    #: Features that share one int8 scale.
    group_size: PositiveInt = 64
    #: The largest numbers of each row, kept beside int8 in bfloat16.
    outliers: NonNegativeInt = 8
    #: Store the encoder's output too: an objective that looks at nothing of the encoder's blocks then replays the decoder alone.
    encoder_output: bool = False


class Sampled(Section):
    """Unbiased sparse logits (arXiv 2503.16870)."""

    #: Draws from the teacher's distribution at each target position.
    draws: Annotated[int, Field(ge=1, le=1000)] = 50
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    #: `independent` draws, as in the paper, or `systematic` ones: as unbiased, with less variance.
    method: Literal["independent", "systematic"] = "independent"


class Topk(Section):
    """The most probable tokens at each target position and the mass of all others; biased."""

    k: PositiveInt = 50


TargetKind = Literal["states", "sampled", "topk"]


class Cache(Section):
    #: What is cached, in one pass of the teacher.
    kinds: list[TargetKind] = Field(default=["states"], min_length=1)
    #: Block of each stack whose input is stored; negative counts from the end.
    encoder_cut: int = -1
    decoder_cut: int = -1
    states: States = States()
    sampled: Sampled = Sampled()
    topk: Topk = Topk()
    #: Examples in one teacher forward pass. Part of the cache's identity: other batches round otherwise.
    batch_size: PositiveInt = 16
