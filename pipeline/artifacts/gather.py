"""Rows picked from many shards of an artifact."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.artifacts.reader import Artifact

#: (shard, row)
Row = tuple[int, int]


def gather(artifact: Artifact, rows: list[Row], columns: Sequence[str]) -> dict[str, torch.Tensor]:
    """Read rows shard by shard and put them in the order asked for; unsigned integers come as int64."""
    parts: dict[str, list[torch.Tensor]] = {column: [] for column in columns}
    places: list[int] = []
    for shard, mine in _by_shard(rows):
        places += [place for _, place in mine]
        for column, tensor in artifact.rows(shard, [row for row, _ in mine], columns).items():
            parts[column].append(tensor)
    order = torch.tensor(places).argsort()
    # Unsigned integers cannot be indexed on every backend, so ids are widened first.
    return {name: torch.cat([_widened(t) for t in tensors])[order] for name, tensors in parts.items()}


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
    return [(s, [(row, place) for place, (which, row) in enumerate(rows) if which == s]) for s in shards]


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int64) if tensor.dtype in (torch.uint16, torch.uint32) else tensor
