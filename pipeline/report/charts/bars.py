"""A chart of named shares: a row a name, with a bar from zero, its interval and its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.report import readable
from pipeline.report.charts.axis import compact, linear_axis
from pipeline.report.charts.frame import CHARACTER, WIDTH, framed, tick_text, x_axis_label
from pipeline.report.charts.marker import COLOURS, marker
from pipeline.report.markup import Markup, el, join

LEFT, RIGHT, TOP, ROW, BOTTOM = 118.0, 50.0, 40.0, 28.0, 44.0


class Bar(NamedTuple):
    name: str
    series: int
    share: float
    interval: Sequence[float] | None


def bars(title: str, description: str, label: str, entries: Sequence[Bar]) -> Markup:
    """Return a panel of shares of the whole; a line marks 100%. label: of the axis, with unit."""
    ends = [end for entry in entries for end in (entry.share, *(entry.interval or ()))]
    axis = linear_axis(label, [0.0, 100.0, *(100 * end for end in ends)], ticks=5, from_zero=True)
    bottom = TOP + ROW * len(entries)

    def pixel(share: float) -> float:
        return LEFT + axis.fraction(100 * share) * (WIDTH - LEFT - RIGHT)

    parts = []
    for tick in axis.ticks:
        px = pixel(tick / 100)
        style = "level" if abs(tick - 100) < 1e-9 else "grid"
        parts.append(el("path", d=f"M{px:.1f} {TOP - 6:g}V{bottom:g}", class_=style))
        parts.append(tick_text(compact(tick), px, bottom + 16, "middle"))
    for index, entry in enumerate(entries):
        parts.append(_row(entry, TOP + ROW * (index + 0.5), pixel))
    parts.append(el("path", d=f"M{pixel(0):.1f} {TOP - 6:g}V{bottom:g}", class_="axis"))
    parts.append(x_axis_label(label, LEFT, WIDTH - RIGHT, bottom + 35))
    return framed(title, description, bottom + BOTTOM, *parts)


def _row(entry: Bar, py: float, pixel: Callable[[float], float]) -> Markup:
    zero, end = pixel(0), pixel(entry.share)
    left, right = sorted((zero, end))
    name = readable.short(entry.name, 15)
    parts = [
        el("text", name, x=LEFT - 26, y=py + 4, class_="name", text_anchor="end"),
        marker(LEFT - 14, py, entry.series, 5),
        el("rect", el("title", _hover(entry)), x=left, y=py - 8, width=max(right - left, 1),
           height=16, rx=2, class_=f"bar s{entry.series % COLOURS}"),
    ]  # fmt: skip
    reach = end
    if entry.interval is not None:
        low, high = pixel(entry.interval[0]), pixel(entry.interval[1])
        caps = f"M{low:.1f} {py - 4:.1f}v8M{high:.1f} {py - 4:.1f}v8"
        parts.append(el("path", d=f"M{low:.1f} {py:.1f}H{high:.1f}{caps}", class_="whisker sx"))
        reach = max(end, high)
    shown = readable.percent(entry.share)
    if reach + 8 + CHARACTER * len(shown) <= WIDTH:
        parts.append(el("text", shown, x=reach + 7, y=py + 4, class_="value"))
    else:
        parts.append(el("text", shown, x=zero + 7, y=py + 4, class_="value inside"))
    return join(*parts)


def _hover(entry: Bar) -> str:
    share = readable.percent(entry.share, 1)
    if entry.interval is None:
        return f"{entry.name}: {share}"
    low, high = (readable.percent(end, 1) for end in entry.interval)
    return f"{entry.name}: {share} ({low} to {high})"
