"""Output for people: a progress bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType


def quiet_libraries() -> None:
    """Silence Transformers and the hub client except for errors; call it before importing them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def say(message: str) -> None:
    """Print one line at once, safe next to a progress bar.

    Raises BrokenPipeError when nobody reads the output any more (`miniend inspect X | head -1`).
    """
    print(message, flush=True)


def discard_output() -> None:
    """Send all further output nowhere, buffered text included: the reader of the pipe is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Count units of work and show how far it is.

        with Progress("cache_teacher", total, "shard") as progress:
            progress.advance(1, "…")

    start: units already done by an earlier run; they count in the bar but not in the rate.
    every: seconds between two lines in a log.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        start: int = 0,
        every: float = 10.0,
        quiet: bool = False,
    ):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done = self.start = start
        self._began = self._last = time.monotonic()
        self._bar = None
        self._quiet = quiet
        self._detail = ""
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, desc=label, unit=unit, dynamic_ncols=True)

    def advance(self, units: int = 1, detail: str = "") -> None:
        """Count `units` as done; detail: shown behind the count until the next one."""
        self.done += units
        self._detail = detail or self._detail
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.update(units)
            if detail:
                self._bar.set_postfix_str(detail)
            return
        now = time.monotonic()
        if units and (now - self._last >= self.every or self.done >= self.total):
            self._last = now
            rate = (self.done - self.start) / max(now - self._began, 1e-9)
            left = (self.total - self.done) / rate if rate > 0 else 0.0
            eta = f", {left:.0f} s left" if self.done < self.total else ""
            detail = f", {self._detail}" if self._detail else ""
            say(f"{self.label}: {self.done}/{self.total} {self.unit}s{eta}{detail}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
