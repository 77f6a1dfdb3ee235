"""What differs between architectures. Nothing outside this package knows the inside of a model.

A family says where the blocks and the q/k/v projections are, how a model's tail is cut off, and what a student's shape
means in its configuration.
"""

from __future__ import annotations

from typing import Any

from pipeline.errors import ConfigError
from pipeline.families.bart import Bart, Pegasus
from pipeline.families.base import Attention, Family, Projections, Shape
from pipeline.families.t5 import T5, UMT5

_FAMILIES: tuple[Family, ...] = (T5(), UMT5(), Bart(), Pegasus())


def family_of(config: Any) -> Family:
    """Return the family of a Transformers configuration; raises ConfigError listing what is supported."""
    for family in _FAMILIES:
        if config.model_type in family.model_types:
            return family
    supported = ", ".join(
        sorted(model_type for family in _FAMILIES for model_type in family.model_types)
    )
    raise ConfigError(f"model type {config.model_type!r} is not supported; supported: {supported}")


def check_dtype(config: Any, dtype: str, setting: str) -> None:
    """Raise ConfigError when models of this family overflow in `dtype`; setting: the key of the recipe that asks for it."""
    if dtype == "float16" and family_of(config).overflows_in_fp16:
        raise ConfigError(
            f"{setting} float16: the feed-forward layers of {config.model_type} overflow in it; use bfloat16 or float32"
        )


def check_length(config: Any, length: int, setting: str) -> None:
    """Raise ConfigError when a model has no positions for `length` tokens; setting: the key of the recipe that asks for it."""
    longest = family_of(config).max_length(config)
    if longest is not None and length > longest:
        raise ConfigError(
            f"{setting} {length}: a {config.model_type} like this one has {longest} positions; lower it"
        )


__all__ = [
    "Attention",
    "Family",
    "Projections",
    "Shape",
    "check_dtype",
    "check_length",
    "family_of",
]
