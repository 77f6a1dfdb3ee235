"""What every section of a recipe shares: strictness and the common types."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Dtype = Literal["auto", "bfloat16", "float32", "float16"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
