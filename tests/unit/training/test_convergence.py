"""The best validation and the patience that ends a run."""

from __future__ import annotations

import json
import math

from pipeline.training.convergence import Convergence

LOSSES = [5.0, 4.0, 3.95, 3.94, 4.5, 3.5, math.nan, 3.45, 3.44]


def test_patience_counts_small_improvements_for_nothing_but_the_best_is_the_best() -> None:
    whole = Convergence(patience=3, min_delta=0.1)
    seen = []
    for step, loss in enumerate(LOSSES):
        resumed = Convergence(patience=3, min_delta=0.1)
        resumed.restore(json.loads(json.dumps(whole.state())))
        improved = whole.see(step, {"lm_loss": loss})
        assert resumed.see(step, {"lm_loss": loss}) == improved
        assert resumed.state() == whole.state()
        seen.append((improved, whole.exhausted))
    assert [improved for improved, _ in seen] == [
        True,
        True,
        True,
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    assert [stops for _, stops in seen] == [
        False,
        False,
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert (whole.best_step, whole.best) == (8, {"lm_loss": 3.44})
