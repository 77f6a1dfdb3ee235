"""Scheduled weights and the share of TAID."""

from __future__ import annotations

import pytest

from pipeline.objectives.weight_schedules import Taid, scheduled, taid_step


def test_scheduled() -> None:
    assert scheduled(0.3, 10**9) == 0.3
    assert [scheduled((1.0, 0.0, 4), step) for step in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
    with pytest.raises(ValueError, match="at least one step"):
        scheduled((1.0, 0.0, 0), 1)


def test_taid_share_never_falls_and_grows_faster_when_the_loss_falls() -> None:
    state, shares = Taid(0.4), []
    for step in range(50):
        state = taid_step(state, 1.0 - step / 100, step / 100, alpha=0.05)
        shares.append(state.share)
    assert shares == sorted(shares)
    assert shares[-1] > 0.4 + 0.6 * 0.49  # ahead of the line
    assert taid_step(state, 0.1, 1.0).share == 1.0
    falling = taid_step(Taid(0.5, 0.0, 1.0), 0.1, 0.0, beta=0.0, alpha=0.1)
    rising = taid_step(Taid(0.5, 0.0, 1.0), 5.0, 0.0, beta=0.0, alpha=0.1)
    assert falling.share > rising.share > 0.5
