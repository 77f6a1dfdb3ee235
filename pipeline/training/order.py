"""The rows of each batch: a pure function of (seed, step), the same for any number of ranks.

Each epoch visits every row once. Shards are shuffled and taken `window` at a time. Rows are
shuffled within that window, so that they come from few files at a time. Finding the rows of step
10⁶ costs no more than finding those of step 1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipeline.artifacts.gather import Row


class SampleOrder:
    """The order in which training sees the rows of some shards."""

    def __init__(self, shard_rows: list[int], batch_size: int, seed: int, window: int = 16) -> None:
        """Raise ValueError when there are no rows.

        shard_rows: number of rows of each shard.
        batch_size: rows of one global batch.
        window: shards whose rows are shuffled together.
        """
        self.rows = sum(shard_rows)
        if self.rows == 0:
            raise ValueError("no rows to order")
        self._shard_rows = np.asarray(shard_rows, dtype=np.int64)
        self._batch, self._seed, self._window = batch_size, seed, window
        # The permutations of the current and the previous window are held: a batch may span both.
        self._epoch_windows = lru_cache(maxsize=2)(self._make_epoch_windows)
        self._window_rows = lru_cache(maxsize=3)(self._make_window_rows)

    def batch(self, step: int) -> list[Row]:
        """Return the (shard, row) pairs of global step `step`, counted from 0."""
        rows: list[Row] = []
        while len(rows) < self._batch:
            epoch, window, offset = self._locate(step * self._batch + len(rows))
            shards, numbers = self._window_rows(epoch, window)
            part = slice(offset, offset + self._batch - len(rows))
            rows += zip(shards[part].tolist(), numbers[part].tolist(), strict=True)
        return rows

    def window(self, step: int) -> tuple[int, int]:
        """Return the window of the last row of `step`, as (epoch, number)."""
        epoch, window, _ = self._locate((step + 1) * self._batch - 1)
        return epoch, window

    def shards_around(self, epoch: int, window: int) -> tuple[list[int], list[int]]:
        """Return the shards of a window and the next one together, then those of the next alone."""
        windows, _ = self._epoch_windows(epoch)
        following = (
            windows[window + 1]
            if window + 1 < len(windows)
            else self._epoch_windows(epoch + 1)[0][0]
        )
        return [*windows[window].tolist(), *following.tolist()], following.tolist()

    def micro_batches(self, step: int, micro: int) -> list[list[Row]]:
        """Return `batch(step)` in parts of `micro` rows.

        The rows of each part are sorted: in this order they are read fastest.
        """
        rows = self.batch(step)
        return [sorted(rows[start : start + micro]) for start in range(0, len(rows), micro)]

    def rank_batches(self, step: int, rank: int, world: int, micro: int) -> list[list[Row]]:
        """Return this rank's micro batches of `step`.

        The micro batches of all ranks together cover `batch(step)` exactly once.
        """
        return self.micro_batches(step, micro)[rank::world]

    def _locate(self, position: int) -> tuple[int, int, int]:
        """Return (epoch, window, offset in the window) of a position in the stream of all rows."""
        epoch, offset = divmod(position, self.rows)
        _, ends = self._epoch_windows(epoch)
        window = int(np.searchsorted(ends, offset, side="right"))
        return epoch, window, offset - (int(ends[window - 1]) if window else 0)

    def _make_epoch_windows(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        shards = self._generator(epoch, 0).permutation(len(self._shard_rows))
        windows = [
            shards[start : start + self._window] for start in range(0, len(shards), self._window)
        ]
        return windows, np.cumsum([int(self._shard_rows[window].sum()) for window in windows])

    def _make_window_rows(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        shards = self._epoch_windows(epoch)[0][window]
        counts = self._shard_rows[shards]
        permutation = self._generator(epoch, window + 1).permutation(int(counts.sum()))
        starts = np.cumsum(counts) - counts
        which = np.repeat(np.arange(len(counts)), counts)[permutation]
        return shards[which], permutation - starts[which]

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(key=[self._seed, 0x0D0E], counter=[0, 0, epoch, stream])
        )
