"""The inside of each architecture: where its blocks, projections and head are, how its tail is cut.

Nothing outside this package knows the inside of a model.

base.py      the interface of a family, and what all families share
t5.py        T5, T5 v1.1, Flan-T5, ByT5, mT5, umT5
bart.py      BART, mBART, Marian, Pegasus
units.py     the units of a weight that a narrower student can leave out
stacks.py    a forward pass of the encoder or the decoder, without the LM head
recorder.py  hooks that record projections and block inputs during a forward pass
"""

from __future__ import annotations

from transformers import PretrainedConfig

from pipeline.errors import ConfigError
from pipeline.families.bart import Bart, Pegasus
from pipeline.families.base import Attention, Family, Projections, Shape
from pipeline.families.t5 import T5, UMT5

_FAMILIES: tuple[Family, ...] = (T5(), UMT5(), Bart(), Pegasus())


def family_of(config: PretrainedConfig) -> Family:
    """Return the family of a configuration; raises ConfigError that lists what is supported."""
    for family in _FAMILIES:
        if config.model_type in family.model_types:
            return family
    supported = ", ".join(
        sorted(model_type for family in _FAMILIES for model_type in family.model_types)
    )
    raise ConfigError(f"model type {config.model_type!r} is not supported; supported: {supported}")


__all__ = [
    "Attention",
    "Family",
    "Projections",
    "Shape",
    "family_of",
]
