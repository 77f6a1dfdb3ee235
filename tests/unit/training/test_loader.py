"""Rows that a loader hands out, and damaged rows that stop it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from pipeline.artifacts import Artifact, Output
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
