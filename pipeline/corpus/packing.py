"""Documents to chunks: consecutive documents make blocks, whose tokens are cut into equal chunks.

A block becomes one shard per view. The last block also takes the documents after it if they make
less than half a block. So blocks hold between half and one and a half times the requested
documents, and a few documents at the end never make a shard too small to hold an example. The
tokens of a block after its last whole chunk are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def iter_blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive items in lists of `size`.

    The last list has between (size + 1) // 2 and size + size // 2 items, or fewer if there are
    fewer in all. No list is empty. At most one and a half blocks are held.
    """
    held: list[T] = []
    rest = (size + 1) // 2
    for item in items:
        if len(held) == size + rest:
            yield held[:size]
            held = held[size:]
        held.append(item)
    if len(held) == size + rest:
        yield held[:size]
        held = held[size:]
    if held:
        yield held


def pack(
    documents: Iterable[NDArray[np.uint32]], eos: int, length: int
) -> tuple[NDArray[np.uint32], int]:
    """Join the documents' ids with `eos` after each and cut them into chunks.

    Returns uint32 chunks (rows, length), possibly with no row, and the number of tokens before
    cutting, EOS included.
    """
    end = np.array([eos], np.uint32)
    parts = [part for ids in documents for part in (ids, end)]
    flat = np.concatenate(parts) if parts else np.empty(0, np.uint32)
    rows = len(flat) // length
    return flat[: rows * length].reshape(rows, length), len(flat)
