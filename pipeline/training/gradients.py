"""Spikes in the gradient norm."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

#: A norm is compared with the median over this many steps, once there are at least FEWEST of them.
WINDOW, FEWEST = 100, 20


class GradientNorms:
    """Counts spikes of the gradient norm (before clipping).

    A spike is above `factor` × the median norm of the last 100 steps.
    """

    def __init__(self, factor: float, on_spike: Callable[[int, float, float], None]) -> None:
        """Start without any norm. on_spike: called with (step, norm, median)."""
        self._factor, self._on_spike = factor, on_spike
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._pending: list[tuple[int, torch.Tensor | float]] = []
        self.spikes = 0

    def add(self, step: int, norm: torch.Tensor | float | None) -> None:
        """Add the norm of an optimiser step that was not skipped.

        A tensor stays on its device until `settle`.
        """
        if norm is not None:
            self._pending.append((step, norm))

    def settle(self) -> None:
        """Check the norms added since the last call."""
        for step, norm in ((step, float(norm)) for step, norm in self._pending):
            if len(self._recent) >= FEWEST and norm > self._factor * (
                usual := median(self._recent)
            ):
                self.spikes += 1
                self._on_spike(step, norm, usual)
            self._recent.append(norm)
        self._pending.clear()

    def state(self) -> dict[str, Any]:
        self.settle()
        return {"recent": list(self._recent), "spikes": self.spikes}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._recent.extend(state.get("recent", []))
        self.spikes = state.get("spikes", 0)
