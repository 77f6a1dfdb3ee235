"""Batches ahead of time: threads read rows while the device computes.

The rows of a step come from a window of shards. While one window is read, the shards of the next
one are read from end to end into the page cache. A network filesystem thus sees large sequential
reads, and the rows are found in memory in any order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import torch

from pipeline import ranks
from pipeline.training.order import Row, SampleOrder

Batch = dict[str, torch.Tensor]

#: Threads that read, each one micro batch at a time. Most of the work is copies and checksums,
#: which leave other threads free to run.
READERS = 2


class BatchSource(Protocol):
    """Rows that can be read by (shard, row)."""

    shard_rows: list[int]

    def read(self, rows: list[Row]) -> Batch:
        """Return CPU tensors with len(rows) in the first dimension, in the order of `rows`."""
        ...

    def read_ahead(self, shards: list[int]) -> None:
        """Bring shards into the page cache, if they are files and it can hold them.

        May take as long as reading them.
        """
        ...


class Loader:
    """Iterates over (step, micro batches of this rank) from `start` to `stop`.

    `waited` sums the seconds that the consumer waited for batches. While the consumer has a step,
    up to `ahead` later ones are read. An error while reading is raised in the consumer, when the
    step it belongs to is due.
    """

    def __init__(
        self,
        source: BatchSource,
        order: SampleOrder,
        *,
        start: int,
        stop: int,
        rank: int,
        world: int,
        micro: int,
        device: torch.device,
        ahead: int = 4,
    ) -> None:
        self._source, self._order = source, order
        self._steps, self._ahead = range(start, stop), ahead
        self._rank, self._world, self._micro, self._device = rank, world, micro, device
        # The ranks of a node share its page cache, so they also share the work of filling it.
        self._local_rank, self._local_world = ranks.local_rank()
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[int, list[Batch]]]:
        pending: deque[list[Future[Batch]]] = deque()
        unread = iter(self._steps)
        readers = ThreadPoolExecutor(READERS, "reader")
        self._window: tuple[int, int] | None = None
        try:
            for step in self._steps:
                began = time.perf_counter()
                for later in islice(unread, self._ahead + 1 - len(pending)):
                    pending.append(self._begin(later, readers))
                batches = [batch.result() for batch in pending.popleft()]
                self.waited += time.perf_counter() - began
                yield (
                    step,
                    [
                        {k: v.to(self._device, non_blocking=True) for k, v in batch.items()}
                        for batch in batches
                    ],
                )
        finally:
            readers.shutdown(wait=False, cancel_futures=True)

    def _begin(self, step: int, readers: ThreadPoolExecutor) -> list[Future[Batch]]:
        """Start reading the micro batches of `step`.

        The first step of a window also starts reading the shards of the next window.
        """
        window = self._order.window(step)
        if window != self._window:
            self._read_ahead(self._order.shards_around(*window)[0 if self._window is None else 1])
            self._window = window
        micro = self._order.rank_batches(step, self._rank, self._world, self._micro)
        return [readers.submit(self._read, rows) for rows in micro]

    def _read(self, rows: list[Row]) -> Batch:
        return self._pin(self._source.read(rows))

    def _read_ahead(self, shards: list[int]) -> None:
        mine = shards[self._local_rank :: self._local_world]
        threading.Thread(
            target=self._source.read_ahead, args=(mine,), name="read ahead", daemon=True
        ).start()

    def _pin(self, batch: Batch) -> Batch:
        if self._device.type != "cuda":
            return batch
        return {
            name: tensor if tensor.is_pinned() else tensor.pin_memory()
            for name, tensor in batch.items()
        }
