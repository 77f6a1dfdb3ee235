"""`scale_parameter`: each weight's learning rate is a share of the recipe's, by the scale of its
first values."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.training.engine import group_by_scale, set_learning_rate


def test_weights_of_one_scale_share_a_group_and_its_rate() -> None:
    wide, narrow, other = (
        nn.Parameter(torch.randn(50, 40) * scale) for scale in (1.0, 0.0078, 1.1)
    )
    zero = nn.Parameter(torch.zeros(7))
    groups = group_by_scale([wide, narrow, other, zero])
    assert list(groups) == [2.0**-10, 2.0**-7, 1.0]
    assert [
        members[0] is one
        for members, one in zip(groups.values(), (zero, narrow, wide), strict=True)
    ] == [True] * 3
    assert len(groups[1.0]) == 2

    optimizer = torch.optim.SGD([{"params": members} for members in groups.values()], lr=9.0)
    engine = SimpleNamespace(optimizer=optimizer, rate_scales=list(groups))
    set_learning_rate(engine, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
        [0.02 / 1024, 0.02 / 128, 0.02]
    )
