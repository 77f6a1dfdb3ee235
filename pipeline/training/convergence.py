"""The best validation so far, and early stopping when none is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Convergence:
    """Follows one validation loss.

    Its state goes into checkpoints, so that a resumed run makes the same decisions as an
    uninterrupted one.
    """

    def __init__(self, patience: int | None, min_delta: float) -> None:
        """Follow a loss that has not been seen yet.

        patience: end training after this many validations in a row without an improvement of more
        than min_delta; None: never.
        """
        self._patience, self._min_delta = patience, min_delta
        #: The step with the smallest loss, that loss, and all numbers of that validation.
        self.best_step: int | None = None
        self.best_loss = math.inf
        self.best: dict[str, float] = {}
        #: The loss to improve on, and the number of validations since it was last improved.
        self._reference, self._waited = math.inf, 0

    def see(self, step: int, validation: Mapping[str, float]) -> bool:
        """Add a validation, whose first number is the loss; return whether it is the best yet."""
        loss = next(iter(validation.values()))
        if loss < self._reference - self._min_delta:
            self._reference, self._waited = loss, 0
        else:
            self._waited += 1
        if not loss < self.best_loss:  # NaN is never the best
            return False
        self.best_step, self.best_loss, self.best = step, loss, dict(validation)
        return True

    @property
    def exhausted(self) -> bool:
        """Return whether training should end."""
        return self._patience is not None and self._waited >= self._patience

    def state(self) -> dict[str, Any]:
        if self.best_step is None:
            return {"waited": self._waited}
        best = {"step": self.best_step, "loss": self.best_loss, "best": self.best}
        return {"waited": self._waited, "reference": self._reference, **best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._waited = state.get("waited", 0)
        if "best" in state:
            self.best_step, self.best = state["step"], dict(state["best"])
            self._reference = state["reference"]
            # Stored apart: a record on disk does not keep which number of `best` came first.
            self.best_loss = state["loss"]
