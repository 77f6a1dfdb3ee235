"""Section of the student: its shape and first weights."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from pipeline.recipe.section import PositiveInt, Section

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
    """A shape. What is absent is the teacher's, or without a teacher T5 v1.1 small's."""

    encoder_layers: PositiveInt | None = None
    """Blocks of the encoder."""
    decoder_layers: PositiveInt | None = None
    """Blocks of the decoder."""
    d_model: PositiveInt | None = None
    """Features of the residual stream."""
    d_ff: PositiveInt | None = None
    """Inner features of a feed-forward layer."""
    num_heads: PositiveInt | None = None
    """Heads of each attention."""
    d_kv: PositiveInt | None = None
    """Features of one head."""
    scale: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the teacher's non-embedding parameters.
    The dimensions not given above follow from it, except d_kv."""
    params: (
        Annotated[PositiveInt, BeforeValidator(_count, json_schema_input_type=PositiveInt | str)]
        | None
    ) = None
    """Parameters in total, with embeddings, as models are named: 60M, 1.5B.
    The dimensions follow as from `scale`."""

    @model_validator(mode="after")
    def _one_size(self) -> ModelShape:
        if self.scale is not None and self.params is not None:
            raise ValueError("scale and params both say how large it is: give one of them")
        return self


class BlockList(Section):
    """For each block of the student, the block of the teacher that it is copied from.

    Blocks are counted from 0; negative ones from the end.
    """

    encoder: list[int] = Field(min_length=1)
    """Blocks of the teacher's encoder."""
    decoder: list[int] = Field(min_length=1)
    """Blocks of the teacher's decoder."""


def _kind_of_blocks(value: Any) -> str:
    return "name" if isinstance(value, str) else "list"


class Init(Section):
    """First weights from the teacher: some of its blocks, and the most important of their widths.

    Importance is measured by the teacher's LM loss.
    """

    blocks: Annotated[
        Annotated[Literal["uniform", "first", "last", "average"], Tag("name")]
        | Annotated[BlockList, Tag("list")],
        Discriminator(_kind_of_blocks),
    ] = "uniform"
    """Evenly spaced blocks with both ends, the first ones, the last ones, means of adjacent ones,
    or a list by stack."""
    importance_rows: PositiveInt = 64
    """Training rows on which the importance of units is estimated where the student is narrower
    than its teacher."""
    importance_batch: PositiveInt = 8
    """Rows in one pass of that estimate. The same rows in other batches give slightly other
    importances."""


def _kind_of_init(value: Any) -> str:
    return "name" if isinstance(value, str) else "section"


#: `random` starts from nothing; `layers` is short for a section of defaults.
InitChoice = Annotated[
    Annotated[Literal["layers", "random"], Tag("name")] | Annotated[Init, Tag("section")],
    Discriminator(_kind_of_init),
]


class Student(ModelShape):
    """The student: its shape and first weights (docs/students.md)."""

    init: InitChoice = "layers"
    """First weights: `layers` takes them from the teacher with the defaults of the section,
    `random` starts from nothing, and a section says how to take them from the teacher."""

    @property
    def from_teacher(self) -> Init | None:
        """Return how the first weights are made from the teacher; None when they are random."""
        if isinstance(self.init, Init):
            return self.init
        return Init() if self.init == "layers" else None
