"""Scores over held-out rows, shared between the ranks.

The rows and the result are the same for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipeline import ranks
from pipeline.training.loader import Batch, BatchSource
from pipeline.training.order import Row
from pipeline.training.task import Engine

#: (engine, batch) → (sum, count) of the values to average.
Score = Callable[[Engine, Batch], tuple[float, int]]


def first_rows(source: BatchSource, count: int) -> list[Row]:
    """Return the first `count` rows of a source, or all if it has fewer."""
    rows = [(shard, row) for shard, rows in enumerate(source.shard_rows) for row in range(rows)]
    return rows[:count]


@torch.no_grad()
def mean_over_rows(engine: Engine, source: BatchSource, rows: list[Row], score: Score) -> float:
    """Return Σ sum ÷ Σ count over `rows`; every rank must call it.

    The rows are scored in batches of the engine's micro batch size.
    """
    rank, world = ranks.rank(), ranks.world_size()
    size = engine.train_micro_batch_size_per_gpu()
    total = count = 0.0
    for start in range(0, len(rows), size * world):
        mine = rows[start + rank * size : start + (rank + 1) * size]
        # Under ZeRO-3 every rank must make the same number of forward calls, so a rank without rows
        # scores those of another and discards the result.
        batch = {
            name: tensor.to(ranks.device())
            for name, tensor in source.read(mine or rows[:1]).items()
        }
        value, number = score(engine, batch)
        if mine:
            total, count = total + value, count + number
    total, count = ranks.sum_over_ranks([total, count])
    return total / max(count, 1.0)
