"""A chart of named shares: one row a name, a bar from zero, its interval as a whisker and the number at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.report import words
from pipeline.report.axis import compact, linear_axis
from pipeline.report.markup import Markup, el, join
from pipeline.report.panel import CHARACTER, COLOURS, WIDTH, marker

LEFT, RIGHT, TOP, ROW, BOTTOM = 118.0, 50.0, 40.0, 28.0, 44.0


class Bar(NamedTuple):
    name: str
    series: int
    share: float
    interval: Sequence[float] | None


def bars(title: str, description: str, label: str, entries: Sequence[Bar]) -> Markup:
    """entries: shares of the whole, which is marked by a line at 100%. label: of the axis, with its unit."""
    ends = [end for entry in entries for end in (entry.share, *(entry.interval or ()))]
    axis = linear_axis(label, [0.0, 100.0, *(100 * end for end in ends)], ticks=5, from_zero=True)
    bottom = TOP + ROW * len(entries)

    def place(share: float) -> float:
        return LEFT + axis.share(100 * share) * (WIDTH - LEFT - RIGHT)

    parts = []
    for tick in axis.ticks:
        px, whole = place(tick / 100), abs(tick - 100) < 1e-9
        parts.append(
            el("path", d=f"M{px:.1f} {TOP - 6:g}V{bottom:g}", class_="level" if whole else "grid")
        )
        parts.append(
            el("text", compact(tick), x=px, y=bottom + 16, class_="tick", text_anchor="middle")
        )
    for index, entry in enumerate(entries):
        parts.append(_row(entry, TOP + ROW * (index + 0.5), place))
    parts.append(el("path", d=f"M{place(0):.1f} {TOP - 6:g}V{bottom:g}", class_="axis"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        el("text", label, x=middle, y=bottom + 35, class_="axis-label", text_anchor="middle")
    )
    return el(
        "svg",
        el("title", title),
        el("desc", description),
        el("text", title, x=0, y=16, class_="panel-title"),
        *parts,
        viewBox=f"0 0 {WIDTH:g} {bottom + BOTTOM:g}",
        role="img",
        class_="panel",
        aria_label=f"{title}. {description}",
    )


def _row(entry: Bar, py: float, place: object) -> Markup:
    assert callable(place)
    zero, end = place(0), place(entry.share)
    shown = words.percent(entry.share)
    hover = f"{entry.name}: {words.percent(entry.share, 1)}"
    if entry.interval is not None:
        hover += (
            f" ({words.percent(entry.interval[0], 1)} to {words.percent(entry.interval[1], 1)})"
        )
    left, right = sorted((zero, end))
    parts = [
        el("text", words.short(entry.name, 15), x=LEFT - 26, y=py + 4, class_="name", text_anchor="end"),
        marker(LEFT - 14, py, entry.series, 5),
        el("rect", el("title", hover), x=left, y=py - 8, width=max(right - left, 1), height=16, rx=2,
           class_=f"bar s{entry.series % COLOURS}"),
    ]  # fmt: skip
    reach = end
    if entry.interval is not None:
        low, high = place(entry.interval[0]), place(entry.interval[1])
        path = f"M{low:.1f} {py:.1f}H{high:.1f}M{low:.1f} {py - 4:.1f}v8M{high:.1f} {py - 4:.1f}v8"
        parts.append(el("path", d=path, class_="whisker sx"))
        reach = max(end, high)
    wide = CHARACTER * len(shown)
    if reach + 8 + wide <= WIDTH:
        parts.append(el("text", shown, x=reach + 7, y=py + 4, class_="value"))
    else:
        parts.append(el("text", shown, x=zero + 7, y=py + 4, class_="value inside"))
    return join(*parts)
