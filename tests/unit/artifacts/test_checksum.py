"""Checksums of rows see any changed byte and any page out of place."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import checksum


@given(st.integers(1, 4), st.integers(1, 9000), st.randoms())
def test_a_checksum_sees_any_byte(rows: int, size: int, random: object) -> None:
    data = np.frombuffer(random.randbytes(rows * size), np.uint8).reshape(rows, size).copy()  # type: ignore[attr-defined]
    before = checksum.of_rows(data)
    row, place = random.randrange(rows), random.randrange(size)  # type: ignore[attr-defined]
    data[row, place] ^= 1 << random.randrange(8)  # type: ignore[attr-defined]
    assert (checksum.of_rows(data) != before).tolist() == [index == row for index in range(rows)]


def test_a_checksum_sees_pages_out_of_place() -> None:
    data = np.random.default_rng(0).integers(0, 256, (1, 4 * 4096), np.uint8)
    moved = np.roll(data, 4096, axis=1)
    assert checksum.of_rows(data) != checksum.of_rows(moved)
