"""What a loader hands out, whose memory that is, and what a checksum sees."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import Artifact, Output, checksum
from pipeline.artifacts.buffers import Buffers
from pipeline.artifacts.gather import gather
from pipeline.artifacts.manifest import shard_path
from pipeline.errors import CorruptArtifact
from pipeline.training.loader import Batch, Loader
from pipeline.training.order import Row, SampleOrder

SHARDS, ROWS = 5, 7


class _Source:
    def __init__(self, artifact: Artifact) -> None:
        self.artifact, self.ahead = artifact, list[int]()
        self.shard_rows = [ROWS] * SHARDS

    def read_ahead(self, shards: list[int]) -> None:
        self.ahead += shards
        self.artifact.read_ahead(shards)

    def read(self, rows: list[Row]) -> Batch:
        return gather(self.artifact, rows, ("ids", "wide"))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """`ids` says (shard, row); a row of `wide` is 20 kB of the same."""
    output = Output(tmp_path, "tokens", {"stage": "tokens"}, "", {})
    output.begin()
    for shard in range(SHARDS):
        ids = torch.tensor([[shard, row] for row in range(ROWS)])
        wide = (ids[:, :1] * 100 + ids[:, 1:]).to(torch.float32).expand(ROWS, 5001)
        output.write_shard(shard, {"ids": ids.to(torch.uint16), "wide": wide}, tokens=1)
    assert output.finish(SHARDS)
    return Artifact(tmp_path)


def _loader(source: _Source, order: SampleOrder, start: int, stop: int) -> Loader:
    return Loader(
        source, order, start=start, stop=stop, rank=0, world=1, micro=4, device=torch.device("cpu")
    )


def test_the_rows_are_those_of_the_order_from_any_step(artifact: Artifact) -> None:
    order = SampleOrder([ROWS] * SHARDS, 8, seed=3, window=2)
    source = _Source(artifact)
    for step, batches in _loader(source, order, 5, 11):
        rows = [row for micro in order.rank_batches(step, 0, 1, 4) for row in micro]
        assert [tuple(pair) for batch in batches for pair in batch["ids"].tolist()] == rows
        values = torch.cat([batch["wide"] for batch in batches])
        assert values.shape == (8, 5001)
        expected = torch.tensor([float(shard * 100 + row) for shard, row in rows])
        assert torch.equal(values, expected[:, None].expand_as(values))
    deadline = time.monotonic() + 10
    while set(source.ahead) != set(range(SHARDS)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("column", ["ids", "wide"])
def test_a_row_that_is_not_what_was_written_stops_the_consumer(
    artifact: Artifact, column: str
) -> None:
    path = shard_path(artifact.root, 2)
    data = path.read_bytes()
    there = (
        torch.tensor([[2, 4]]).to(torch.uint16) if column == "ids" else torch.full((1, 5001), 204.0)
    )
    place = data.index(there.view(torch.uint8).numpy().tobytes())
    path.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
    order = SampleOrder([ROWS] * SHARDS, 1, seed=3)
    seen: list[int] = []
    loader = Loader(
        _Source(artifact),
        order,
        start=0,
        stop=35,
        rank=0,
        world=1,
        micro=1,
        device=torch.device("cpu"),
    )
    batches = iter(loader)
    with pytest.raises(CorruptArtifact, match=f"row 4 of {column} differs"):
        seen.extend(step for step, _ in batches)
    stream = [order.batch(step)[0] for step in range(35)]
    damaged = stream.index((2, 4)) if column == "wide" else [shard for shard, _ in stream].index(2)
    assert len(seen) == damaged, (
        "every row before it, or before its block of small rows, was handed out, and none after"
    )


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


def test_memory_is_taken_again_only_when_nothing_refers_to_it() -> None:
    buffers, shape = Buffers(), (1 << 20, 2)
    first = buffers.empty(shape, torch.bfloat16)
    place, part = first.data_ptr(), first[5:7]
    del first
    assert buffers.empty(shape, torch.bfloat16).data_ptr() != place, "a view is alive"
    weight = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    loss = (part * weight).sum()
    del part
    assert buffers.empty(shape, torch.bfloat16).data_ptr() != place, "a graph needs it"
    loss.backward()
    del loss
    assert place in {
        tensor.data_ptr() for tensor in [buffers.empty(shape, torch.bfloat16) for _ in range(1)]
    }
