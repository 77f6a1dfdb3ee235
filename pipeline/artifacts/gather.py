"""Rows picked from many shards of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from pipeline.artifacts.artifact import Artifact
from pipeline.artifacts.buffers import BUFFERS

#: (shard, row)
Row = tuple[int, int]


def gather(artifact: Artifact, rows: list[Row], columns: Sequence[str]) -> dict[str, torch.Tensor]:
    """Read rows in the requested order, each copied once; unsigned integers come as int64.

    Consecutive rows of the same shard are read together, so sorted rows are read fastest.
    """
    shards, numbers = np.array(rows, np.int64).T
    cuts = [*np.flatnonzero(np.diff(shards, prepend=-1)).tolist(), len(rows)]
    picks = [
        artifact.pick(int(shards[first]), numbers[first:after], first)
        for first, after in pairwise(cuts)
    ]
    batch = {}
    for column in columns:
        dtype, row_shape = artifact.layout(column)
        batch[column] = BUFFERS.empty((len(rows), *row_shape), dtype)
        artifact.copy_rows(picks, column, batch[column])
    # Unsigned integers cannot be indexed on every backend.
    return {name: _widened(tensor) for name, tensor in batch.items()}


def gather_ragged(artifact: Artifact, rows: list[Row], column: str) -> list[bytes]:
    """Read rows of a ragged column in the requested order."""
    strings: dict[int, bytes] = {}
    for shard, shard_rows in _by_shard(rows):
        data = artifact.ragged_rows(shard, [row for row, _ in shard_rows], column)
        strings |= dict(zip([index for _, index in shard_rows], data, strict=True))
    return [strings[index] for index in range(len(rows))]


def _by_shard(rows: list[Row]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Return (shard, [(row, index in `rows`)]) for each shard among `rows`."""
    shards = sorted({shard for shard, _ in rows})
    return [
        (s, [(row, index) for index, (shard, row) in enumerate(rows) if shard == s]) for s in shards
    ]


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int64) if tensor.dtype in (torch.uint16, torch.uint32) else tensor
