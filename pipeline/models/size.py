"""How many parameters a model of a given shape has, exactly and without building it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from pipeline.families import Shape, family_of
from pipeline.families.base import Stack
from pipeline.families.units import Axes, is_embedding


@dataclass(frozen=True)
class Size:
    #: Every distinct weight, tied ones once.
    total: int
    #: Those in token and position embeddings and in an LM head of its own.
    embeddings: int

    @property
    def blocks(self) -> int:
        """Non-embedding parameters: what scaling laws count, and what `scale` and the chain's ratios mean."""
        return self.total - self.embeddings


class Sizes:
    """Sizes of models that differ from one configuration in shape alone.

    A template with two blocks a stack is built on the meta device, once: its first block stands for the first of any model
    (T5's holds the position bias), its second for all others. The family says which axes of a weight grow with which dimension.
    """

    def __init__(self, config: Any, separate_head: bool | None = None) -> None:
        """separate_head: whether the LM head has weights of its own; what is published of the family when None."""
        family = family_of(config)
        self._shape = replace(family.shape(config), encoder_layers=2, decoder_layers=2)
        separate = family.expects_separate_head(config) if separate_head is None else separate_head
        model = family.empty_model(family.with_shape(config, self._shape), separate)
        prefixes: dict[str, Stack] = {
            family.block_prefix(stack, 1): stack for stack in ("encoder", "decoder")
        }
        #: (axes, lengths in the template, stack if it stands for every block but the first)
        self._weights: list[tuple[Axes, tuple[int, ...], Stack | None]] = []
        for name, weight in model.named_parameters():
            repeated = next(
                (stack for prefix, stack in prefixes.items() if name.startswith(prefix)), None
            )
            self._weights.append((family.axes(name), tuple(weight.shape), repeated))

    def of(self, shape: Shape) -> Size:
        total = embeddings = 0
        times = {None: 1, "encoder": shape.encoder_layers - 1, "decoder": shape.decoder_layers - 1}
        for axes, lengths, repeated in self._weights:
            count = times[repeated] * math.prod(
                length if units is None else self._length(units.dimension, length, shape)
                for units, length in zip(axes, lengths, strict=True)
            )
            total += count
            embeddings += count if is_embedding(axes) else 0
        return Size(total, embeddings)

    def _length(self, dimension: str, length: int, shape: Shape) -> int:
        width = length // getattr(self._shape, dimension)
        # The rows of a head are as many as it is wide, but for those of a position bias, which has one a head.
        return getattr(shape, dimension) * (
            shape.d_kv if dimension == "num_heads" and width > 1 else width
        )
