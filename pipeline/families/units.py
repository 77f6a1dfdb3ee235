"""Units of a model that a narrower one can do without, and the weight axes along which they lie."""

from __future__ import annotations

from typing import Literal, NamedTuple

Dimension = Literal["d_model", "num_heads", "d_ff"]


class Units(NamedTuple):
    """The units along one axis of a weight.

    They are features of the residual stream, heads of an attention, or inner features of a
    feed-forward layer. Axes with equal `Units` hold the same units: a unit is kept or left out in
    all of them at once.
    """

    dimension: Dimension
    #: The attention, feed-forward layer or stack that has them; empty for the whole model.
    module: str


#: One entry an axis. None: a student cannot choose its length (the vocabulary, positions, buckets).
Axes = tuple[Units | None, ...]

#: The residual stream, which embeddings, norms and every block of both stacks share.
RESIDUAL = Units("d_model", "")


def is_embedding(axes: Axes) -> bool:
    """Return whether a weight with these axes is an embedding or the LM head.

    These are as long as a vocabulary or a table of positions.
    """
    return axes == (None, RESIDUAL)
