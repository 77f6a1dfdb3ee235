"""A profile of a few training steps.

It opens in Perfetto (ui.perfetto.dev), chrome://tracing or TensorBoard's profile plugin.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from pipeline import ranks
from pipeline.artifacts.atomic import temporary_name
from pipeline.console import say

#: Steps that are skipped first, and steps that are recorded.
WARMUP, RECORDED = 5, 3


class Trace:
    """Records a few steps: `with Trace(directory, steps) as trace:` … `trace.step()` after each.

    Each rank writes rank-NNNNN.pt.trace.json.gz (Chrome's trace format). Results stay the same, bit
    for bit. Does nothing when directory is None.
    """

    def __init__(self, directory: Path | None, steps: int) -> None:
        """Prepare the profile. steps: how many will follow; a short run records fewer."""
        self._directory, self._profile = directory, None
        if directory is None or steps < 1:
            return
        recorded = min(RECORDED, steps)
        warmup = min(WARMUP, steps - recorded)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._profile = profile(
            activities=activities,
            schedule=schedule(
                wait=max(0, warmup - 1), warmup=min(1, warmup), active=recorded, repeat=1
            ),
            on_trace_ready=self._write,
        )

    def step(self) -> None:
        if self._profile is not None:
            self._profile.step()

    def __enter__(self) -> Trace:
        if self._profile is not None:
            self._profile.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._profile is not None:
            self._profile.__exit__(kind, error, trace)

    def _write(self, recorded: profile) -> None:
        assert self._directory is not None
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"rank-{ranks.rank():05d}.pt.trace.json.gz"
        # Named so that the profiler compresses it.
        temporary = temporary_name(path).with_suffix(".gz")
        recorded.export_chrome_trace(str(temporary))
        temporary.replace(path)
        if ranks.rank() == 0:
            say(f"profile of {RECORDED} steps: {path}")
