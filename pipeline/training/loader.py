"""Batches ahead of time: one thread reads rows while the device computes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import torch

from pipeline.training.order import Row, SampleOrder

Batch = dict[str, torch.Tensor]


class BatchSource(Protocol):
    """Rows that can be read by (shard, row)."""

    shard_rows: list[int]

    def read(self, rows: list[Row]) -> Batch:
        """Return CPU tensors with len(rows) in the first dimension, in the order of `rows`."""
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
            for step in range(self._start, self._stop):
                micro = self._order.rank_batches(step, self._rank, self._world, self._micro)
                if not self._put((step, [self._pin(self._source.read(rows)) for rows in micro])):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

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
        return {name: tensor.pin_memory() for name, tensor in batch.items()}
