"""Blocks hold every document once, in order, and none is much smaller than requested."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.packing import iter_blocks, pack


@given(st.integers(0, 200), st.integers(1, 30))
def test_blocks(count: int, size: int) -> None:
    blocks = list(iter_blocks(range(count), size))
    assert [item for block in blocks for item in block] == list(range(count))
    assert all(len(block) == size for block in blocks[:-1])
    if count >= size:
        assert (size + 1) // 2 <= len(blocks[-1]) <= size + size // 2
    else:
        assert len(blocks) == min(count, 1)


def test_pack_ends_documents_and_drops_the_rest() -> None:
    documents = [np.array(ids, np.uint32) for ids in ([5, 6, 7], [], [8, 9])]
    chunks, total = pack(documents, eos=1, length=3)
    assert (chunks.tolist(), total) == ([[5, 6, 7], [1, 1, 8]], 8)
    assert pack([], eos=1, length=3)[0].shape == (0, 3)
