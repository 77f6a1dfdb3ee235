"""Units of a model that a narrower one can do without, and which axis of which weight holds them."""

from __future__ import annotations

from typing import Literal, NamedTuple

Dimension = Literal["d_model", "num_heads", "d_ff"]


class Units(NamedTuple):
    """The units along one axis of a weight: features of the residual stream, heads of an attention, or inner features of a block.

    Axes with equal `Units` hold the same units, so that a unit is kept or left out in all of them at once.
    """

    dimension: Dimension
    #: Where they are: an attention, a feed-forward layer, a stack; empty for the whole model.
    place: str


#: One entry an axis; None for an axis whose length is not a student's to choose (the vocabulary, positions, buckets).
Axes = tuple[Units | None, ...]

#: The residual stream, which embeddings, norms and every block of both stacks share.
RESIDUAL = Units("d_model", "")


def is_embedding(axes: Axes) -> bool:
    """Whether a weight with these axes is as long as a vocabulary or a table of positions: an embedding or the LM head."""
    return axes == (None, RESIDUAL)
