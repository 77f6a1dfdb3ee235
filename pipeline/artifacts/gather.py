"""Rows picked from many shards of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from pipeline.artifacts.buffers import BUFFERS
from pipeline.artifacts.reader import Artifact

#: (shard, row)
Row = tuple[int, int]


def gather(artifact: Artifact, rows: list[Row], columns: Sequence[str]) -> dict[str, torch.Tensor]:
    """Read rows in the order asked for, each copied once to its place; unsigned integers come as int64.

    Rows of a shard that follow one another are read together: sorted rows are read fastest.
    """
    shards, numbers = np.array(rows, np.int64).T
    cuts = [*np.flatnonzero(np.diff(shards, prepend=-1)).tolist(), len(rows)]
    picks = [
        artifact.pick(int(shards[first]), numbers[first:after], first)
        for first, after in pairwise(cuts)
    ]
    found = {}
    for column in columns:
        dtype, row_shape = artifact.layout(column)
        found[column] = BUFFERS.empty((len(rows), *row_shape), dtype)
        artifact.copy_rows(picks, column, found[column])
    # Unsigned integers cannot be indexed on every backend.
    return {name: _widened(tensor) for name, tensor in found.items()}


def gather_ragged(artifact: Artifact, rows: list[Row], column: str) -> list[bytes]:
    """Read rows of a ragged column in the order asked for."""
    found: dict[int, bytes] = {}
    for shard, mine in _by_shard(rows):
        data = artifact.ragged_rows(shard, [row for row, _ in mine], column)
        found |= dict(zip([place for _, place in mine], data, strict=True))
    return [found[place] for place in range(len(rows))]


def _by_shard(rows: list[Row]) -> list[tuple[int, list[tuple[int, int]]]]:
    """(shard, [(row, place in `rows`)]) for each shard among `rows`."""
    shards = sorted({shard for shard, _ in rows})
    return [
        (s, [(row, place) for place, (which, row) in enumerate(rows) if which == s]) for s in shards
    ]


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int64) if tensor.dtype in (torch.uint16, torch.uint32) else tensor
