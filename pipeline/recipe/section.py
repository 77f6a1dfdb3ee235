"""The base class of all sections, their common types, and the marks of what decides no content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.fields import FieldInfo

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Dtype = Literal["auto", "bfloat16", "float32", "float16"]


@dataclass(frozen=True)
class Mark:
    """A mark in a field's type that leaves the field out of its section's identity."""

    word: str
    meaning: str


Watching = Mark(
    "no", "steers how a run is watched, kept or computed, which changes rounding at most"
)
Naming = Mark("name", "names a result and decides where it lies")
ByContent = Mark("content", "names a place; the hash of what lies there decides")
PerUnit = Mark(
    "per unit", "chooses fine-tuning units; each unit's identity holds what applies to it"
)


class Section(BaseModel):
    """Settings that refuse unknown keys, never change, and tell which of them decide content."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def identity(self) -> dict[str, JsonValue]:
        """Return every setting without a mark, recursively, as values of JSON.

        A section whose settings count only together with others overrides this.
        """
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if mark_of(field) is None
        }


def mark_of(field: FieldInfo) -> Mark | None:
    """Return the mark in the field's type; None where the field decides content."""
    return next((item for item in field.metadata if isinstance(item, Mark)), None)


def section_in(annotation: Any) -> type[Section] | None:
    """Return the section a field of this type holds, alone, in a list or among other values."""
    arguments = get_args(annotation)
    if not arguments and isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = (section_in(argument) for argument in arguments)
    return next((section for section in inner if section is not None), None)


def _plain(value: Any) -> JsonValue:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
