"""The disk space of a cache, computed before its first byte is written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import ShardRecord
from pipeline.errors import ArtifactError
from pipeline.recipe import Cache, States
from pipeline.teacher import states
from pipeline.teacher.sparse import TOPK

#: Bytes per draw at each target position of `sampled`. benchmarks/cache_size.py measures 17 to 27
#: bytes per position at 50 draws; more draws give more ids.
SAMPLED_BYTES_PER_DRAW = 0.6
#: Bytes of a shard's file that are not rows: the header and its length (`artifacts.shard`).
SHARD_BYTES = 8 + 4096


def state_bytes(settings: States, width: int, computed: str) -> float:
    """Return the bytes of one position's hidden states.

    computed: the dtype that the teacher computes in.
    """
    if settings.dtype == "int8":
        return width + 2 * -(-width // settings.group_size) + 2 * min(settings.outliers, width)
    dtype = computed if settings.dtype == "auto" else settings.dtype
    return width * (4 if dtype == "float32" else 2)


def row_bytes(
    cache: Cache, length_in: int, length_out: int, width: int, vocab_size: int, computed: str
) -> float:
    """Return the bytes of one row of the kinds in `cache`.

    The result is exact except for `sampled` (see SAMPLED_BYTES_PER_DRAW).
    """
    row, columns = 0.0, 0
    if "states" in cache.kinds:
        stacks = 3 if cache.states.encoder_output else 2
        positions = length_in * (stacks - 1) + length_out
        row += positions * state_bytes(cache.states, width, computed)
        columns += stacks * len(states.names("", cache.states))
    if "topk" in cache.kinds:
        row += length_out * (cache.topk.k * (4 if vocab_size <= 1 << 16 else 6) + 4)
        columns += len(TOPK)
    if "sampled" in cache.kinds:
        row += length_out * cache.sampled.draws * SAMPLED_BYTES_PER_DRAW
        columns += 1
    return row + 8 * columns  # and a checksum for each


def cache_bytes(
    cache: Cache, tokens: Sequence[ShardRecord], width: int, vocab_size: int, computed: str
) -> float:
    """Return the bytes of the cache of these token shards.

    The result is exact except for `sampled`, and does not count the sidecars.
    """
    total = 0.0
    for shard in tokens:
        length_in, length_out = (
            shard.columns[name].row_shape[0] for name in ("input_ids", "labels")
        )
        total += SHARD_BYTES + shard.rows * row_bytes(
            cache, length_in, length_out, width, vocab_size, computed
        )
    return total


def require_disk(directory: Path, need: float) -> None:
    """Raise ArtifactError unless the disk of `directory` has room for `need` more bytes."""
    free = shutil.disk_usage(directory).free
    if need > free:
        raise ArtifactError(
            f"{directory} will take {need / 1e9:.1f} GB more, but {free / 1e9:.1f} GB are free "
            "there: free some space, cache smaller targets (cache.states.dtype=int8, "
            "cache.kinds=[sampled]), or move the run to another disk"
        )
