"""Writing of cache shards in the background while the teacher computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipeline.artifacts import Output
from pipeline.artifacts.output import ShardWriter
from pipeline.artifacts.shard import Rows

#: Batches computed but not yet written; more would only use memory.
_AHEAD = 4


class Writing:
    """Writes shards in a thread while the next batch is computed; holds at most _AHEAD batches."""

    def __enter__(self) -> Writing:
        self._thread = ThreadPoolExecutor(1, "writer")
        self._pending: deque[Future[Any]] = deque()
        self._shard: ShardWriter | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        try:
            while error is None and self._pending:
                self._pending.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
            if self._shard is not None:
                self._shard.discard()

    def begin(self, output: Output, index: int, rows: int) -> None:
        def task() -> None:
            self._shard = output.shard(index, rows)

        self._submit(task)

    def append(self, columns: dict[str, Rows]) -> None:
        self._submit(lambda: self._open().append(columns))

    def finish(self, tokens: int, notes: dict[str, Any]) -> None:
        def task() -> None:
            self._open().finish(tokens=tokens, notes=notes)
            self._shard = None

        self._submit(task)

    def _open(self) -> ShardWriter:
        assert self._shard is not None
        return self._shard

    def _submit(self, task: Callable[[], None]) -> None:
        while len(self._pending) >= _AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(task))
