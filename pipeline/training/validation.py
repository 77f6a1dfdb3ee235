"""Scores over held-out rows that the ranks share; the same rows and the same result whatever their number."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipeline.training import distributed
from pipeline.training.loader import Batch, BatchSource
from pipeline.training.order import Row
from pipeline.training.task import Engine

#: (engine, batch) → (sum, count) of what is averaged.
Score = Callable[[Engine, Batch], tuple[float, int]]


def first_rows(source: BatchSource, count: int) -> list[Row]:
    rows = [(shard, row) for shard, rows in enumerate(source.shard_rows) for row in range(rows)]
    return rows[:count]


@torch.no_grad()
def mean_over_rows(engine: Engine, source: BatchSource, rows: list[Row], score: Score) -> float:
    """Return Σ sum ÷ Σ count over `rows`, in batches of the engine's micro batch size; every rank must call it."""
    rank, world = distributed.rank(), distributed.world_size()
    size = engine.train_micro_batch_size_per_gpu()
    total = count = 0.0
    for start in range(0, len(rows), size * world):
        mine = rows[start + rank * size : start + (rank + 1) * size]
        # Under ZeRO-3 every rank must make the same number of forward calls, so one without rows scores others' for nothing.
        batch = {
            name: tensor.to(distributed.device())
            for name, tensor in source.read(mine or rows[:1]).items()
        }
        value, number = score(engine, batch)
        if mine:
            total, count = total + value, count + number
    total, count = distributed.sum_over_ranks([total, count])
    return total / max(count, 1.0)
