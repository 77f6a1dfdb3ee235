"""One small chart: two axes, and the marks between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.report.charts import layout
from pipeline.report.charts.axis import Axis, compact
from pipeline.report.charts.frame import CHARACTER, HEIGHT, WIDTH, framed, tick_text, x_axis_label
from pipeline.report.charts.layout import Occupied, Point
from pipeline.report.charts.marker import COLOURS, marker
from pipeline.report.markup import Markup, el, join

LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 52.0, 42.0


@dataclass
class Panel:
    """A chart under construction: add marks, then take `svg()`. Values are in axis units."""

    title: str
    #: One sentence for readers who do not see the chart.
    description: str
    x: Axis
    y: Axis
    height: float = HEIGHT
    _marks: list[Markup] = field(default_factory=list)
    _occupied: Occupied = field(init=False)

    def __post_init__(self) -> None:
        self._occupied = Occupied((LEFT, TOP - 14, WIDTH, self.height - BOTTOM))

    def pixel(self, x: float, y: float) -> Point:
        """Return the pixel of a pair of values."""
        inner = self.height - TOP - BOTTOM
        across, down = self.x.fraction(x), 1 - self.y.fraction(y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + down * inner

    def line(
        self, points: Sequence[Point], series: int, kind: str, hover: str | None = None
    ) -> None:
        """Join points of values; parts above the y axis are cut off.

        kind: a class of the style sheet (`train`, `ghost` …).
        """
        title = el("title", hover) if hover else None
        style = f"line {kind} s{series % COLOURS}"
        for piece in _below(points, self.y.high):
            pixels = [self.pixel(*point) for point in piece]
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in pixels)
            self._marks.append(el("polyline", title, points=path, class_=style))

    def side_by_side(self, values: Sequence[float]) -> list[float]:
        """Return shifts in pixels that put marks of nearly equal x next to each other, in order."""
        return layout.side_by_side([self.pixel(value, self.y.low)[0] for value in values])

    def marker(
        self, x: float, y: float, series: int, hover: str, size: float = 5.5, shift: float = 0.0
    ) -> None:
        px, py = self.pixel(x, y)
        px += shift
        self._marks.append(marker(px, py, series, size, hover))
        self._occupied.add((px - size - 2, py - size - 2, px + size + 2, py + size + 2))

    def interval(self, x: float, low: float, high: float, series: int, shift: float = 0.0) -> None:
        """Add a vertical whisker with caps."""
        (px, top), (_, bottom) = self.pixel(x, high), self.pixel(x, low)
        px += shift
        caps = f"M{px - 3:.1f} {top:.1f}h6M{px - 3:.1f} {bottom:.1f}h6"
        path = f"M{px:.1f} {top:.1f}V{bottom:.1f}{caps}"
        self._marks.append(el("path", d=path, class_=f"whisker s{series % COLOURS}"))
        self._occupied.add((px - 4, top, px + 4, bottom))

    def level(self, y: float, label: str, hover: str) -> None:
        """Add a named dashed line across the panel: a quality without a place on the x axis.

        A level beyond the y axis is named at that edge, with an arrow and its value.
        """
        if self.y.low <= y <= self.y.high:
            self._level_inside(y, label, hover)
        else:
            self._level_beyond(y, label, hover)

    def label(self, x: float, y: float, label: str, shift: float = 0.0) -> None:
        """Name a marker next to it, where there is room. The legend names it in any case."""
        px, py = self.pixel(x, y)
        px += shift
        width = CHARACTER * len(label)
        right, left, above = px + 10, px - 10 - width, px - width / 2
        spots = [(right, py + 4), (left, py + 4), (above, py - 11), (above, py + 19)]
        spots += [(x, py + dy) for dy in (-9, 17, -22, 30) for x in (px + 7, px - 7 - width)]
        spot = self._occupied.first_free(spots, label)
        if spot is not None:
            self._write(spot, label, "name")

    def svg(self) -> Markup:
        return framed(self.title, self.description, self.height, self._grid(), *self._marks)

    def _level_inside(self, y: float, label: str, hover: str) -> None:
        (left, py), right = self.pixel(self.x.low, y), WIDTH - RIGHT
        path = f"M{left:.1f} {py:.1f}H{right:.1f}"
        self._marks.append(el("path", el("title", hover), d=path, class_="level"))
        at_end = right - 4 - CHARACTER * len(label)
        spots = [(left + 4, py - 5), (left + 4, py + 13), (at_end, py - 5)]
        spot = self._occupied.first_free(spots, label)
        if spot is not None:
            self._write(spot, label, "level-label", hover)

    def _level_beyond(self, y: float, label: str, hover: str) -> None:
        above = y > self.y.high
        label = f"{label} {compact(y)} {'↑' if above else '↓'}"
        edge = TOP + 14 if above else self.height - BOTTOM - 8
        end = WIDTH - RIGHT - CHARACTER * len(label)
        across = (end, LEFT + 6, (LEFT + end) / 2)
        spots = [(x, edge + line) for line in (0, 14, 28) for x in across]
        spot = self._occupied.first_free(spots, label) or spots[0]
        self._write(spot, label, "level-label", hover)

    def _grid(self) -> Markup:
        left, right, bottom = LEFT, WIDTH - RIGHT, self.height - BOTTOM
        parts = [el("text", self.y.label, x=0, y=36, class_="axis-label")]
        for tick in self.y.ticks:
            _, py = self.pixel(self.x.low, tick)
            parts.append(el("path", d=f"M{left:g} {py:.1f}H{right:g}", class_="grid"))
            parts.append(tick_text(compact(tick), left - 7, py + 4, "end"))
        for tick in self.x.ticks:
            px, _ = self.pixel(tick, self.y.low)
            parts.append(el("path", d=f"M{px:.1f} {bottom:g}v5", class_="axis"))
            parts.append(tick_text(compact(tick), px, bottom + 18, "middle"))
        parts.append(el("path", d=f"M{left:g} {bottom:g}H{right:g}", class_="axis"))
        parts.append(x_axis_label(self.x.label, left, right, bottom + 36))
        return join(*parts)

    def _write(self, spot: Point, label: str, kind: str, hover: str | None = None) -> None:
        title = el("title", hover) if hover else None
        self._marks.append(el("text", title, label, x=spot[0], y=spot[1], class_=kind))
        self._occupied.add_text(*spot, label)


def _below(points: Sequence[Point], high: float) -> list[list[Point]]:
    """Return the pieces of a polyline that lie at or below `high`, ending where it crosses."""
    pieces: list[list[Point]] = [[]]
    for before, (x, y) in zip([None, *points], points, strict=False):
        if before is not None and (before[1] > high) != (y > high):
            share = (high - before[1]) / (y - before[1])
            pieces[-1].append((before[0] + share * (x - before[0]), high))
            if y > high:
                pieces.append([])
        if y <= high:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]
