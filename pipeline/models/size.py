"""Parameters of a model of a given shape, exactly and without building it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pipeline.families import Shape
from pipeline.families.base import Stack
from pipeline.families.units import Axes, is_embedding
from pipeline.models.counts import ParameterCounts

if TYPE_CHECKING:
    from pipeline.models.architecture import Architecture


class _Weight(NamedTuple):
    """One weight of the template.

    stack: of a weight that every block of the stack has, except the first; None for other weights.
    """

    axes: Axes
    lengths: tuple[int, ...]
    stack: Stack | None


class Sizes:
    """Sizes of models that differ from one architecture in shape alone.

    A template with two blocks a stack is built once, on the meta device. Its first block stands for
    the first block of any model (T5's holds the position bias), its second for all others. The
    family says which axes of a weight grow with which dimension.
    """

    def __init__(self, architecture: Architecture) -> None:
        self._shape = replace(architecture.shape, encoder_layers=2, decoder_layers=2)
        template = architecture.with_shape(self._shape).empty()
        family = architecture.family
        prefixes: dict[str, Stack] = {
            family.block_prefix(stack, 1): stack for stack in ("encoder", "decoder")
        }
        self._weights = [
            _Weight(family.axes(name), tuple(weight.shape), _stack_of(name, prefixes))
            for name, weight in template.named_parameters()
        ]

    def of(self, shape: Shape) -> ParameterCounts:
        total = embeddings = 0
        times = {None: 1, "encoder": shape.encoder_layers - 1, "decoder": shape.decoder_layers - 1}
        for axes, lengths, stack in self._weights:
            count = times[stack] * math.prod(
                length if units is None else self._length(units.dimension, length, shape)
                for units, length in zip(axes, lengths, strict=True)
            )
            total += count
            embeddings += count if is_embedding(axes) else 0
        return ParameterCounts(total, embeddings)

    def _length(self, dimension: str, length: int, shape: Shape) -> int:
        width = length // getattr(self._shape, dimension)
        # A head has d_kv rows in each weight, except in a position bias, where it has one.
        return getattr(shape, dimension) * (
            shape.d_kv if dimension == "num_heads" and width > 1 else width
        )


def _stack_of(name: str, prefixes: dict[str, Stack]) -> Stack | None:
    return next((stack for prefix, stack in prefixes.items() if name.startswith(prefix)), None)
