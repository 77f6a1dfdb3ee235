"""Rows a second of the training loader, against copying the same bytes from the page cache.

    python benchmarks/loader.py [--quick] [--json OUT]

Two caches of random bytes in the shapes of T5 base, with 512 inputs and 114 targets:

- `states`: tokens and hidden states of width 768 in bf16 (0.96 MB a row).
- `tokens`: tokens alone (1.3 kB a row).

The loader gives batches of 16 (256 of tokens) in sample order over 4 shards, to a consumer that
does nothing. The fastest of several turns counts. Times with `cpu` in their name are processor
time of all threads together: what the loader takes from other work on the machine.

- `copy`: one thread copies each shard's bytes from its memory-mapped file, from end to end, into
  memory of a shard's size.
- `again`: epochs of a loader that has read its rows before.
- `first`: an epoch of a loader that has read none of them, so it maps every page and compares
  every row's checksum. That is a second pass over the bytes, which the copy does not make, so it
  has no goal.
- `hashed`: the time that reading each shard's sha256 before its first row would add to `first`.

`…_over_copy_ratio` is bytes a second of the loader over those of the copy.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks import common
from pipeline.artifacts import Artifact, Output
from pipeline.artifacts.atomic import sha256_file
from pipeline.artifacts.gather import gather
from pipeline.artifacts.manifest import shard_path
from pipeline.training.loader import Batch, Loader
from pipeline.training.order import Row, SampleOrder

INPUTS, TARGETS, WIDTH, SHARDS = 512, 114, 768, 4
#: Epochs of `again` from one loader; with several, its start counts for little.
AGAIN = 5


class Source:
    """Source of an artifact's rows, with all columns."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact, self._columns = artifact, list(artifact.shards[0].columns)
        self.shard_rows = [shard.rows for shard in artifact.shards]

    def read_ahead(self, shards: list[int]) -> None:
        self._artifact.read_ahead(shards)

    def read(self, rows: list[Row]) -> Batch:
        return gather(self._artifact, rows, self._columns)


def write(root: Path, rows: int, states: bool, shards: int = SHARDS) -> Artifact:
    """Write `shards` shards of `rows` random rows each."""
    output = Output(root, "teacher_cache", {"stage": "benchmark"}, "", {})
    output.begin()
    generator = torch.Generator().manual_seed(0)
    for shard in range(shards):
        columns = {
            name: torch.randint(0, 32000, (rows, length), generator=generator).to(torch.uint16)
            for name, length in (("input_ids", INPUTS), ("labels", TARGETS))
        }
        if states:
            columns |= {
                name: torch.randn(rows, length, WIDTH, generator=generator).bfloat16()
                for name, length in (("encoder_states", INPUTS), ("decoder_states", TARGETS))
            }
        output.write_shard(shard, columns, tokens=rows)
    output.finish(shards)
    return Artifact(root)


def refill_page_cache(path: Path) -> None:
    """Make the page cache hold what was read from a file, not what was written to it.

    After memory was cleared, or on another node, training finds pages that reading ahead left.
    These are larger.
    """
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while handle.read(1 << 24):
            pass


class Seconds(NamedTuple):
    wall: float
    cpu: float


def timed(run: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def epochs(source: Source, batch: int, count: int = 1) -> None:
    """Take all steps of `count` epochs from a loader."""
    order = SampleOrder(source.shard_rows, batch, seed=1)
    loader = Loader(
        source,
        order,
        start=0,
        stop=count * (order.rows // batch),
        rank=0,
        world=1,
        micro=batch,
        device=torch.device("cpu"),
    )
    for _ in loader:
        pass


def measure(
    label: str, root: Path, rows: int, batch: int, states: bool, repeats: int
) -> dict[str, float]:
    write(root, rows, states)
    for shard in range(SHARDS):
        refill_page_cache(shard_path(root, shard))
    maps = [np.memmap(shard_path(root, shard), np.uint8, "r") for shard in range(SHARDS)]
    target = np.zeros(len(maps[0]), np.uint8)

    def copy() -> None:
        for source in maps:
            np.copyto(target, source)

    def hashed() -> None:
        for shard in range(SHARDS):
            sha256_file(shard_path(root, shard))

    known = Source(Artifact(root))
    epochs(known, batch)
    copy()
    runs: dict[str, Callable[[], object]] = {
        "copy": copy,
        "first": lambda: epochs(Source(Artifact(root)), batch),
        "again": lambda: epochs(known, batch, AGAIN),
        "hashed": hashed,
    }
    times = {name: [timed(run)] for name, run in runs.items()}
    for _ in range(repeats - 1):
        for name, run in runs.items():
            times[name].append(timed(run))
    passes = dict.fromkeys(runs, 1) | {"again": AGAIN}
    wall = {name: min(one.wall for one in all_) / passes[name] for name, all_ in times.items()}
    cpu = {name: min(one.cpu for one in all_) / passes[name] for name, all_ in times.items()}
    total = rows * SHARDS
    return {
        f"{label}_row_bytes": sum(map(len, maps)) / total,
        **{f"{label}_{name}_rows_per_s": total / wall[name] for name in ("copy", "first", "again")},
        f"{label}_copy_gb_per_s": sum(map(len, maps)) / wall["copy"] / 1e9,
        **{
            f"{label}_{name}_over_copy_ratio": wall["copy"] / wall[name]
            for name in ("first", "again")
        },
        **{
            f"{label}_{name}_cpu_over_copy_ratio": cpu[name] / cpu["copy"]
            for name in ("first", "again")
        },
        f"{label}_hashed_over_first_ratio": cpu["hashed"] / cpu["first"],
    }


def main() -> None:
    args = common.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    repeats = 5 if args.quick else 15
    with tempfile.TemporaryDirectory() as root:
        figures = measure(
            "states", Path(root) / "states", 128 if args.quick else 256, 16, True, repeats
        )
        figures |= measure(
            "tokens", Path(root) / "tokens", 8192 if args.quick else 32768, 256, False, repeats
        )
    goals = {"states_again_over_copy_ratio": (">=", 0.8)}
    common.finish("loader", figures, goals, args.json)


if __name__ == "__main__":
    main()
