"""The numbers of a run, the same in TensorBoard and in metrics.jsonl.

A resumed run continues both without overlap.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from pipeline.artifacts.atomic import write_bytes


class MetricsLog:
    """Scalars by step, written by rank 0 only (other ranks pass active=False).

    start: the step resumed from. Later lines of an earlier, killed process are removed, so that
    each step appears once.
    """

    def __init__(self, out: Path, start: int, *, active: bool) -> None:
        self._active = active
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        out.mkdir(parents=True, exist_ok=True)
        self._path = out / "metrics.jsonl"
        self._truncate(start)
        self._lines = open(self._path, "a", encoding="utf-8")
        self._board = SummaryWriter(
            str(out / "tensorboard"), purge_step=start + 1 if start else None, flush_secs=10
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log `values` (names like loss/lm) under `step`, the number of optimiser steps done."""
        if not self._active:
            return
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._lines.write(
            json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n"
        )
        self._lines.flush()

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Show Markdown in TensorBoard; metrics.jsonl holds only numbers."""
        if self._active:
            for name, text in texts.items():
                self._board.add_text(name, text, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._active:
            self._lines.close()
            self._board.close()

    def _truncate(self, start: int) -> None:
        if not self._path.exists():
            return
        lines = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= start:
                    lines.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # the line a kill cut short
        write_bytes(self._path, "".join(line + "\n" for line in lines).encode())
