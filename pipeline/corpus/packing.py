"""From documents to chunks: consecutive documents make blocks, and a block's tokens are cut into equal chunks.

A block becomes one shard per view. The last block takes in what follows when that is less than half a block, so blocks
hold between half and one and a half times the documents asked for, and a handful of documents at the end never makes a
shard that is too small to hold an example. What is left of a block after its last whole chunk is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def iter_blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive items in lists of `size`; the last list has between (size + 1) // 2 and size + size // 2 items.

    Fewer only when there are fewer in all; no list is empty. At most one and a half blocks are held.
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

    Returns uint32 chunks (rows, length), possibly with no row, and the number of tokens, EOS included, before cutting.
    """
    end = np.array([eos], np.uint32)
    parts = [part for ids in documents for part in (ids, end)]
    flat = np.concatenate(parts) if parts else np.empty(0, np.uint32)
    rows = len(flat) // length
    return flat[: rows * length].reshape(rows, length), len(flat)
