"""What differs between architectures. Nothing outside this package knows the inside of a model.

A family says where the blocks and the q/k/v projections are, how a model's tail is cut off, and what a student's shape
means in its configuration.
"""

from __future__ import annotations

from typing import Any

from pipeline.errors import ConfigError
from pipeline.families.base import Attention, Family, Projections, Shape
from pipeline.families.t5 import T5

_FAMILIES: tuple[Family, ...] = (T5(),)


def family_of(config: Any) -> Family:
    """Return the family of a Transformers configuration; raises ConfigError listing what is supported."""
    for family in _FAMILIES:
        if config.model_type in family.model_types:
            return family
    supported = ", ".join(sorted(model_type for family in _FAMILIES for model_type in family.model_types))
    raise ConfigError(f"model type {config.model_type!r} is not supported; supported: {supported}")


__all__ = ["Attention", "Family", "Projections", "Shape", "family_of"]
