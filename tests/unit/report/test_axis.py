"""Axes cover their values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.charts.axis import linear_axis, size_axis

numbers = st.floats(-1e9, 1e9, allow_nan=False).map(
    lambda value: 0.0 if abs(value) < 1e-6 else value
)


@given(st.lists(numbers, min_size=1, max_size=20))
def test_a_linear_axis_covers_its_values_with_a_few_even_ticks(values: list[float]) -> None:
    axis = linear_axis("x", values)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values)
    assert max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 8
    steps = [after - before for before, after in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)


@given(st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=20))
def test_a_size_axis_covers_its_values_and_has_ticks(values: list[float]) -> None:
    axis = size_axis("x", values)
    assert all(-1e-9 <= axis.fraction(value) <= 1 + 1e-9 for value in values)
    assert axis.ticks
    assert axis.logarithmic == (max(values) > 5 * min(values))
