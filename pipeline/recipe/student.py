"""The student: its shape and first weights."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from pipeline.recipe.base import PositiveInt, Section

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def _count(value: Any) -> Any:
    """Read 60M and 1.5B; anything else is left to the integer's own rules."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([\d_]+\.?\d*) ?([kmb]?)", value.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError("write a number of parameters as 60M, 1.5B or 60_000_000")
    return round(float(match[1].replace("_", "")) * _UNITS[match[2].lower()])


class ModelShape(Section):
    """A shape; what is left out is the teacher's (or, without a teacher, T5 v1.1 small's)."""

    encoder_layers: PositiveInt | None = None
    decoder_layers: PositiveInt | None = None
    d_model: PositiveInt | None = None
    d_ff: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    d_kv: PositiveInt | None = None
    #: Share of the teacher's non-embedding parameters; the dimensions not given above, but d_kv, follow from it.
    scale: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    #: Parameters in all, embeddings among them, as models are named: 60M, 1.5B. The dimensions follow, as from `scale`.
    params: Annotated[PositiveInt, BeforeValidator(_count)] | None = None

    @model_validator(mode="after")
    def _one_size(self) -> ModelShape:
        if self.scale is not None and self.params is not None:
            raise ValueError("scale and params both say how large it is: give one of them")
        return self


class BlockList(Section):
    """Which block of the teacher each block is copied from, by stack, counted from 0; negative from the end."""

    encoder: list[int] = Field(min_length=1)
    decoder: list[int] = Field(min_length=1)


def _kind_of_blocks(value: Any) -> str:
    return "name" if isinstance(value, str) else "list"


class Init(Section):
    """First weights from the teacher: some of its blocks, and of their widths what matters most to its LM loss."""

    #: Evenly spaced blocks with both ends, the first ones, the last ones, means of adjacent ones, or a list by stack.
    blocks: Annotated[
        Annotated[Literal["uniform", "first", "last", "average"], Tag("name")]
        | Annotated[BlockList, Tag("list")],
        Discriminator(_kind_of_blocks),
    ] = "uniform"
    #: Training rows on which the importance of units is estimated where the student is narrower than its teacher.
    importance_rows: PositiveInt = 64
    #: Rows in one pass of that; the same rows in other batches give slightly other importances.
    importance_batch: PositiveInt = 8


def _kind_of_init(value: Any) -> str:
    return "name" if isinstance(value, str) else "section"


#: `random` starts from nothing; `layers` is short for a section of defaults.
InitChoice = Annotated[
    Annotated[Literal["layers", "random"], Tag("name")] | Annotated[Init, Tag("section")],
    Discriminator(_kind_of_init),
]


class Student(ModelShape):
    init: InitChoice = "layers"

    @property
    def from_teacher(self) -> Init | None:
        """How the first weights are made from the teacher's; None when they are random."""
        if isinstance(self.init, Init):
            return self.init
        return Init() if self.init == "layers" else None
