"""SIGTERM, SIGUSR1 and Ctrl-C ask a run to save and stop; a second Ctrl-C stops it at once."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from pipeline.errors import EXIT_REQUEUE

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Records stop signals: `with StopRequest() as stop:` … `if stop.received: save and leave`."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # SIGTERM and SIGUSR1 come more than once: Slurm signals every process of a step, and a
        # launcher passes them on.
        if self.received is not None and number == signal.SIGINT:
            # Everything on disk is atomic: leaving now loses only the steps since the last
            # checkpoint.
            os._exit(EXIT_REQUEUE)
        self.received = signal.Signals(number).name
