"""Axes: a range of numbers with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    #: The quantity shown, with its unit.
    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def fraction(self, value: float) -> float:
        """Return where `value` lies between low (0) and high (1)."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = (math.log10(max(v, 1e-300)) for v in (value, low, high))
        return (value - low) / (high - low)


def linear_axis(
    label: str,
    values: Iterable[float],
    *,
    ticks: int = 4,
    from_zero: bool = False,
    integers: bool = False,
) -> Axis:
    """Return an axis that covers `values` and ends on ticks.

    Ticks are multiples of 1, 2, 2.5 or 5 times a power of ten. integers: only whole numbers.
    """
    finite = _finite(values)
    low, high = min(finite), max(finite)
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    if high - low < 1e-9 * max(abs(high), 1e-9):
        margin = abs(high) * 0.1 or 1.0
        low, high = (low - margin if low else 0.0), high + margin
    step = _round_step((high - low) / ticks)
    if integers:
        step = float(math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Axis(label, marks[0], marks[-1], marks)


def size_axis(label: str, values: Iterable[float]) -> Axis:
    """Return an axis that covers positive `values` with room around them.

    It is logarithmic where the largest is more than five times the smallest.
    """
    positive = [value for value in _finite(values) if value > 0] or [1.0]
    smallest, largest = min(positive), max(positive)
    if largest <= 5 * smallest:
        room = 0.18 * (largest - smallest) or 0.3 * largest
        low, high = max(0.0, smallest - room), largest + room
        ticks = linear_axis(label, [low, high]).ticks
        return Axis(label, low, high, tuple(tick for tick in ticks if low <= tick <= high))
    low, high = smallest / 1.5, largest * 1.5
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors: Sequence[float] = (
        (1, 2, 5) if high < 100 * low else (1, 3) if high < 1000 * low else (1,)
    )
    marks = [factor * 10.0**decade for decade in decades for factor in factors]
    shown = tuple(mark for mark in marks if low <= mark <= high)
    return Axis(f"{label}, log scale", low, high, shown, logarithmic=True)


def compact(value: float) -> str:
    """Return a short number for a tick: 0.25, 12, 1.5k, 3M, 2B."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)] or [0.0]
