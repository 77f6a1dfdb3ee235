"""Time to the first batch after resuming far into the training data.

    python benchmarks/resume.py [--quick] [--json OUT]

A token artifact of 512 inputs and 114 targets, 48 shards; batches of 32 rows. For each number of
rows done before the stop:

- `ours`: the artifact is opened, the sample order made, a loader started at that step and its
  first batch taken, from the start each time.
- `skip`: the cost of resuming without a seekable order. A torch DataLoader over the same rows,
  shuffled by the same kind of generator, takes and drops the batches up to there (up to 10⁵ rows;
  beyond that it only takes longer).

The artifact is in the page cache, and times are processor time of all threads: other load on the
machine counts for little. `ours_flatness_ratio` is the largest over the smallest of our times over
all positions.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import common
from benchmarks.loader import Source, write
from pipeline.artifacts import Artifact
from pipeline.training.loader import Batch, Loader
from pipeline.training.order import SampleOrder

BATCH, SHARDS = 32, 48
POSITIONS = (10**3, 10**4, 10**5, 10**6)
SKIPPED_UP_TO = 10**5


def ours(root: Path, position: int) -> Batch:
    source = Source(Artifact(root))
    order = SampleOrder(source.shard_rows, BATCH, seed=1)
    step = position // BATCH
    loader = Loader(
        source,
        order,
        start=step,
        stop=step + 1,
        rank=0,
        world=1,
        micro=BATCH,
        device=torch.device("cpu"),
    )
    return next(iter(loader))[1][0]


class _Rows(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, root: Path) -> None:
        self._source = Source(Artifact(root))
        rows = self._source.shard_rows
        self._rows = [(shard, row) for shard, count in enumerate(rows) for row in range(count)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, indices: list[int]) -> Batch:
        return self._source.read([self._rows[index] for index in indices])


def skip(root: Path, position: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(
        _Rows(root), BATCH, shuffle=True, generator=generator, collate_fn=lambda batch: batch
    )
    left = position // BATCH
    while True:
        for batch in loader:
            if left == 0:
                return batch
            left -= 1


def main() -> None:
    args = common.parser(__doc__).parse_args()
    rows = 1_000 if args.quick else 21_000  # a shard; three windows of 16 shards make an epoch
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "tokens"
        write(root, rows, states=False, shards=SHARDS)
        # The cost of a step may differ with the state of the page cache and the windows, so all
        # positions take turns.
        runs = {
            f"ours_{position}_rows": lambda at=position: ours(root, at) for position in POSITIONS
        }
        seconds = dict.fromkeys(runs, float("inf"))
        for _ in range(10 if args.quick else 40):
            for name, run in runs.items():
                began = time.process_time()
                run()
                seconds[name] = min(seconds[name], time.process_time() - began)
        figures = {f"{name}_ms": best * 1e3 for name, best in seconds.items()}
        for position in POSITIONS:
            if position <= (SKIPPED_UP_TO // 10 if args.quick else SKIPPED_UP_TO):
                began = time.process_time()
                skip(root, position)
                figures[f"skip_{position}_rows_ms"] = (time.process_time() - began) * 1e3
    figures["ours_flatness_ratio"] = max(seconds.values()) / min(seconds.values())
    last = max(position for position in POSITIONS if f"skip_{position}_rows_ms" in figures)
    figures["skip_over_ours_ratio"] = (
        figures[f"skip_{last}_rows_ms"] / figures[f"ours_{last}_rows_ms"]
    )
    common.finish("resume", figures, {"ours_flatness_ratio": ("<=", 1.2)}, args.json)


if __name__ == "__main__":
    main()
