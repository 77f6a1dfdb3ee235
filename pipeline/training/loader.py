"""Batches ahead of time: threads read rows while the device computes.

The rows of a step come from a window of shards. While one window is read, the shards of the next are brought into the page cache
from end to end, so that a network filesystem sees large sequential reads and the rows, in whatever order, are found in memory.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from pipeline.training import distributed
from pipeline.training.order import Row, SampleOrder

Batch = dict[str, torch.Tensor]

#: Threads that read, each a micro batch: while one copies, the other compares checksums; both let other threads run meanwhile.
READERS = 2


class BatchSource(Protocol):
    """Rows that can be read by (shard, row)."""

    shard_rows: list[int]

    def read(self, rows: list[Row]) -> Batch:
        """Return CPU tensors with len(rows) in the first dimension, in the order of `rows`."""
        ...

    def read_ahead(self, shards: list[int]) -> None:
        """Bring shards into the page cache, if they are files and it can hold them; may take as long as reading them does."""
        ...


class Loader:
    """Iterate (step, micro batches of this rank) from `start` to `stop`; `waited` sums the seconds spent on an empty queue.

    An error while reading is raised in the consumer.
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
        self._start, self._stop = start, stop
        self._rank, self._world, self._micro, self._device = rank, world, micro, device
        self._queue: queue.Queue[tuple[int, list[Batch]] | BaseException | None] = queue.Queue(maxsize=ahead)
        # The ranks of a node share its page cache, and so the work of filling it.
        self._local_rank, self._local_world = distributed.local_rank()
        self._closed = threading.Event()
        self.waited = 0.0

    def __iter__(self) -> Iterator[tuple[int, list[Batch]]]:
        thread = threading.Thread(target=self._produce, name="loader", daemon=True)
        thread.start()
        try:
            while True:
                began = time.perf_counter()
                item = self._queue.get()
                self.waited += time.perf_counter() - began
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                step, batches = item
                yield step, [{k: v.to(self._device, non_blocking=True) for k, v in batch.items()} for batch in batches]
        finally:
            self._closed.set()

    def _produce(self) -> None:
        try:
            with ThreadPoolExecutor(READERS, "reader") as readers:
                reading: deque[tuple[int, list[Future[Batch]]]] = deque()
                window = None
                for step in range(self._start, self._stop):
                    if self._order.window(step) != window:
                        first, window = window is None, self._order.window(step)
                        self._read_ahead(self._order.shards_around(*window)[0 if first else 1])
                    micro = self._order.rank_batches(step, self._rank, self._world, self._micro)
                    reading.append((step, [readers.submit(self._read, rows) for rows in micro]))
                    if len(reading) >= READERS and not self._deliver(*reading.popleft()):
                        return
                while reading:
                    if not self._deliver(*reading.popleft()):
                        return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _deliver(self, step: int, batches: list[Future[Batch]]) -> bool:
        return self._put((step, [batch.result() for batch in batches]))

    def _read(self, rows: list[Row]) -> Batch:
        return self._pin(self._source.read(rows))

    def _read_ahead(self, shards: list[int]) -> None:
        mine = shards[self._local_rank :: self._local_world]
        threading.Thread(target=self._source.read_ahead, args=(mine,), name="read ahead", daemon=True).start()

    def _put(self, item: tuple[int, list[Batch]] | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def _pin(self, batch: Batch) -> Batch:
        if self._device.type != "cuda":
            return batch
        return {name: tensor if tensor.is_pinned() else tensor.pin_memory() for name, tensor in batch.items()}
