"""The student: its shape and first weights."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.base import PositiveInt, Section


class Student(Section):
    """A student's shape; what is left out is the teacher's (or, without a teacher, T5 v1.1's)."""

    encoder_layers: PositiveInt | None = None
    decoder_layers: PositiveInt | None = None
    d_model: PositiveInt | None = None
    d_ff: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    d_kv: PositiveInt | None = None
    #: `layers` copies evenly spaced blocks and the embeddings of the teacher; `random` starts from nothing.
    init: Literal["layers", "random"] = "layers"
