"""Shapes of about a given size.

Their dimensions move together, and each is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace

from pipeline.families import Family, Shape

#: (largest step as a share of the dimension, smallest step, largest step); 1 for other dimensions.
_STEPS = {
    "d_model": (1 / 8, 8, 128),
    "d_ff": (1 / 8, 8, 128),
    "num_heads": (1 / 4, 1, 8),
    "d_kv": (1.0, 8, 8),
}


def rounded(name: str, value: float) -> int:
    """Round one dimension to a number that matrix units and relation heads work well with.

    - d_model and d_ff: a multiple of the largest power of two that is at most an eighth of them, at
      least 8 and at most 128.
    - num_heads: a multiple of the largest power of two that is at most a quarter of them, at most
      8, so that teacher and student share many divisors.
    - d_kv: a multiple of 8.
    """
    share, least, most = _STEPS.get(name, (1.0, 1, 1))
    step = min(max(2 ** int(math.log2(max(value * share, 1.0))), least), most)
    return max(step, round(value / step) * step)


def scaled(base: Shape, free: Sequence[str], family: Family) -> Iterator[Shape]:
    """Yield shapes whose `free` dimensions are those of `base` times one factor.

    The factor goes from 1 down and up to 64-fold; the other dimensions stay as they are in `base`.
    With depth and widths free, parameters grow with the factor's cube.
    """
    fixed = {name: value for name, value in asdict(base).items() if name not in free}
    for power in sorted(range(-832, 833), key=abs):
        factor = 2 ** (power / 832 * 6)
        values = {name: rounded(name, getattr(base, name) * factor) for name in free}
        yield from _allowed(replace(base, **values), fixed, family)


def stretched(shape: Shape, family: Family) -> Iterator[Shape]:
    """Yield `shape` with a d_ff up to a quarter smaller or larger, the nearest first."""
    fixed = {name: value for name, value in asdict(shape).items() if name != "d_ff"}
    for percent in sorted(range(-25, 26), key=abs):
        d_ff = rounded("d_ff", shape.d_ff * (1 + percent / 100))
        yield from _allowed(replace(shape, d_ff=d_ff), fixed, family)


def between(top: Shape, bottom: Shape, family: Family) -> Iterator[Shape]:
    """Yield shapes whose dimensions all move geometrically from `top` to `bottom`.

    Each dimension is rounded and stays between its two ends.
    """
    for permille in range(1001):
        share = permille / 1000
        values = {}
        for name, start in asdict(top).items():
            end = getattr(bottom, name)
            value = rounded(name, math.exp((1 - share) * math.log(start) + share * math.log(end)))
            values[name] = min(max(value, min(start, end)), max(start, end))
        yield family.nearest(Shape(**values))


def nearest_to(
    target: float, shapes: Iterable[Shape], measure: Callable[[Shape], int]
) -> Shape | None:
    """Return the shape whose measure is nearest to `target` in proportion.

    Of equals it is the first; None if there are no shapes.
    """
    counts = {shape: measure(shape) for shape in dict.fromkeys(shapes)}
    return min(counts, key=lambda shape: abs(math.log(counts[shape] / target)), default=None)


def _allowed(shape: Shape, fixed: dict[str, int], family: Family) -> Iterator[Shape]:
    shape = family.nearest(shape)
    if all(getattr(shape, name) == value for name, value in fixed.items()):
        yield shape
