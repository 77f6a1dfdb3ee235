"""Spikes of the gradient norm."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline.training.gradients import GradientNorms


def test_a_spike_is_far_above_the_median_whenever_it_is_looked_at() -> None:
    norms = [1.0 + step % 3 / 10 for step in range(60)]
    norms[5] = norms[30] = norms[31] = 50.0
    found: list[int] = []
    at_once = GradientNorms(5.0, lambda step, norm, usual: found.append(step))
    for step, norm in enumerate(norms):
        at_once.add(step, norm)
        at_once.settle()
    assert found == [30, 31], "the one at step 5 has too few before it"
    resumed = GradientNorms(5.0, lambda *_: None)
    for step, norm in enumerate(norms):
        if step == 31:
            state = json.loads(json.dumps(resumed.state()))
            resumed = GradientNorms(5.0, lambda *_: None)
            resumed.restore(state)
        resumed.add(step, torch.tensor(norm))
    assert resumed.state()["spikes"] == at_once.spikes == 2
    assert resumed.state()["recent"] == pytest.approx(at_once.state()["recent"])
