"""Chunk sizes for the losses that work in chunks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.objectives.head import recomputed
from pipeline.objectives.scratch import chunks_of


@pytest.fixture(params=[1, 4 * 9, 1 << 21], ids=["row-chunks", "four-of-nine", "one-chunk"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The smallest chunks, chunks of four rows in a vocabulary of 9, and everything at once."""
    monkeypatch.setattr(recomputed, "MIN_COLUMNS", 2)
    with chunks_of(request.param):
        yield
