"""Numbers that change over steps: weights, and TAID's share. Pure functions, no torch."""

from __future__ import annotations

import math
from typing import NamedTuple

#: A constant, or (start, end, steps): linear from start to end over that many steps, then end.
Scheduled = float | tuple[float, float, int]


def scheduled(value: Scheduled, step: int) -> float:
    """Return the value at `step` (0 = the first).

    Raises ValueError for a schedule of fewer than one step.
    """
    if isinstance(value, (int, float)):
        return float(value)
    start, end, steps = value
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, not {steps}")
    share = min(max(step, 0) / steps, 1.0)
    return start + (end - start) * share


class Taid(NamedTuple):
    """TAID's state: the teacher's share of the target, the momentum, and the last loss."""

    share: float
    momentum: float = 0.0
    last_loss: float | None = None


def taid_step(
    state: Taid,
    loss: float,
    progress: float,
    *,
    start: float = 0.4,
    alpha: float = 5e-4,
    beta: float = 0.99,
) -> Taid:
    """Return the next state of TAID's adaptive share after a step with the divergence `loss`.

    Source: arXiv 2501.16937, algorithm 1. progress: the share of training done, 0 to 1; the share
    never falls below the line from `start` to 1.
    """
    floor = start + (1.0 - start) * min(max(progress, 0.0), 1.0)
    if state.last_loss is None:
        return Taid(max(state.share, floor), state.momentum, loss)
    change = (state.last_loss - loss) / (state.last_loss + 1e-15)
    momentum = beta * state.momentum + (1.0 - beta) * change
    sigmoid = 1.0 / (1.0 + math.exp(-max(min(momentum, 700.0), -700.0)))
    grown = state.share + alpha * sigmoid * (1.0 - state.share)
    return Taid(min(1.0, max(floor, grown)), momentum, loss)
