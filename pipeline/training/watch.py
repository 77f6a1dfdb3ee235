"""State that the loop updates at each step and checkpoints hold.

It covers validations, gradient norms and skipped steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline import ranks
from pipeline.console import say
from pipeline.recipe import Optimisation
from pipeline.training.convergence import Convergence
from pipeline.training.gradients import GradientNorms
from pipeline.training.task import Engine


class Watch:
    """Follows a run.

    Its state goes into checkpoints, so that a resumed run makes the same decisions as an
    uninterrupted one.
    """

    def __init__(self, settings: Optimisation, label: str, engine: Engine) -> None:
        self.convergence = Convergence(settings.patience, settings.min_delta)
        self._label, self._engine, self._leads = label, engine, ranks.rank() == 0
        self._norms = GradientNorms(settings.spike_factor, self._say_spike)
        self._skipped_before = engine.skipped_steps
        #: The number of steps skipped in a row up to now.
        self.skipped_in_a_row = 0

    def skipped(self, done: int) -> bool:
        """Return whether the step just made, number `done`, was skipped.

        DeepSpeed leaves weights and moments unchanged on every rank when the norm of the gradient
        is not finite.
        """
        if self._engine.skipped_steps == self._skipped_before:
            self.skipped_in_a_row = 0
            self._norms.add(done, self._engine.get_global_grad_norm())
            return False
        self._skipped_before = self._engine.skipped_steps
        self.skipped_in_a_row += 1
        if self._leads:
            say(
                f"{self._label}: step {done} skipped, its gradient is not finite "
                f"({self.skipped_in_a_row} in a row)"
            )
        return True

    def values(self) -> dict[str, float]:
        """Return the numbers to log, by name."""
        self._norms.settle()
        norm = float(self._engine.get_global_grad_norm() or 0.0)
        return {
            "train/gradient_norm": norm if math.isfinite(norm) else 0.0,
            "train/gradient_norm_spikes": float(self._norms.spikes),
            "train/skipped_steps": float(self._skipped_before),
        }

    def state(self) -> dict[str, Any]:
        return {
            "convergence": self.convergence.state(),
            "norms": self._norms.state(),
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; call it after the engine's checkpoint is loaded."""
        self.convergence.restore(state.get("convergence", {}))
        self._norms.restore(state.get("norms", {}))
        self.skipped_in_a_row = state.get("skipped_in_a_row", 0)
        self._skipped_before = self._engine.skipped_steps

    def _say_spike(self, step: int, norm: float, usual: float) -> None:
        if self._leads:
            say(
                f"{self._label}: the gradient norm of step {step} is {norm:.3g}, "
                f"{norm / usual:.1f} × the median of the steps before"
            )
