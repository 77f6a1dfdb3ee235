"""One small chart: a frame with two axes, and the marks that go into it. Sizes are in CSS pixels of a 360-wide panel.

Panels stay this small on every screen: a page lays more of them side by side, so that their type stays readable on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.report.axis import Axis, compact
from pipeline.report.markup import Markup, el, join

WIDTH, HEIGHT = 360.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 52.0, 42.0
#: Colours of the page's style sheet (classes s0 …) and marker shapes; together they repeat after 56 series only.
COLOURS = 7
SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross", "plus", "ring")
#: Mean width of a character of the labels' 11 px type.
CHARACTER = 6.1
#: Marks this close would hide each other.
NEAR = 7.0

Point = tuple[float, float]


@dataclass
class Panel:
    title: str
    #: One sentence for those who do not see the chart.
    description: str
    x: Axis
    y: Axis
    height: float = HEIGHT
    _marks: list[Markup] = field(default_factory=list)
    _taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def place(self, x: float, y: float) -> Point:
        """Pixels of a pair of values."""
        inner = self.height - TOP - BOTTOM
        return LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT), TOP + (1 - self.y.share(y)) * inner

    def line(
        self, points: Sequence[Point], series: int, kind: str, hover: str | None = None
    ) -> None:
        """Join points of values; what lies above the y axis is cut off. kind: a class of the style sheet (`train`, `ghost` …)."""
        title = el("title", hover) if hover else None
        for piece in _below(points, self.y.high):
            path = " ".join(
                f"{px:.1f},{py:.1f}" for px, py in (self.place(*point) for point in piece)
            )
            self._marks.append(
                el("polyline", title, points=path, class_=f"line {kind} s{series % COLOURS}")
            )

    def side_by_side(self, values: Sequence[float]) -> list[float]:
        """Shifts in pixels that set marks of about the same place on the x axis beside each other, in their order."""
        places = [self.place(value, self.y.low)[0] for value in values]
        order = sorted(range(len(places)), key=places.__getitem__)
        groups: list[list[int]] = []
        for index in order:
            near = groups and places[index] - places[groups[-1][-1]] < NEAR
            groups[-1].append(index) if near else groups.append([index])
        shifts = [0.0] * len(places)
        for group in groups:
            middle = sum(places[index] for index in group) / len(group)
            for place, index in enumerate(sorted(group)):
                if len(group) > 1:
                    shifts[index] = (
                        middle + (place - (len(group) - 1) / 2) * 2 * NEAR - places[index]
                    )
        return shifts

    def marker(
        self, x: float, y: float, series: int, hover: str, size: float = 5.5, shift: float = 0.0
    ) -> None:
        px, py = self.place(x, y)
        px += shift
        self._marks.append(marker(px, py, series, size, hover))
        self._taken.append((px - size - 2, py - size - 2, px + size + 2, py + size + 2))

    def interval(self, x: float, low: float, high: float, series: int, shift: float = 0.0) -> None:
        """A vertical whisker with caps."""
        (px, top), (_, bottom) = self.place(x, high), self.place(x, low)
        px += shift
        path = (
            f"M{px:.1f} {top:.1f}V{bottom:.1f}M{px - 3:.1f} {top:.1f}h6M{px - 3:.1f} {bottom:.1f}h6"
        )
        self._marks.append(el("path", d=path, class_=f"whisker s{series % COLOURS}"))
        self._taken.append((px - 4, top, px + 4, bottom))

    def level(self, y: float, label: str, hover: str) -> None:
        """A dashed line across the panel, named at one end: what has a quality but no place on the x axis.

        One beyond the y axis is named at that edge with an arrow and its value.
        """
        if not self.y.low <= y <= self.y.high:
            above = y > self.y.high
            label = f"{label} {compact(y)} {'↑' if above else '↓'}"
            edge = TOP + 14 if above else self.height - BOTTOM - 8
            end = WIDTH - RIGHT - CHARACTER * len(label)
            spots = [
                (x, edge + line) for line in (0, 14, 28) for x in (end, LEFT + 6, (LEFT + end) / 2)
            ]
            self._write(
                *next((spot for spot in spots if self._free(*spot, label)), spots[0]),
                label,
                "level-label",
                hover,
            )
            return
        (left, py), right = self.place(self.x.low, y), WIDTH - RIGHT
        self._marks.append(
            el("path", el("title", hover), d=f"M{left:.1f} {py:.1f}H{right:.1f}", class_="level")
        )
        boxes = [
            (left + 4, py - 5),
            (left + 4, py + 13),
            (right - 4 - CHARACTER * len(label), py - 5),
        ]
        spot = next((box for box in boxes if self._free(box[0], box[1], label)), None)
        if spot is not None:
            self._write(*spot, label, "level-label", hover)

    def label(self, x: float, y: float, label: str, shift: float = 0.0) -> None:
        """Name a marker beside it, where there is room; the legend names it in any case."""
        px, py = self.place(x, y)
        px += shift
        wide = CHARACTER * len(label)
        beside = [
            (px + 10, py + 4),
            (px - 10 - wide, py + 4),
            (px - wide / 2, py - 11),
            (px - wide / 2, py + 19),
        ]
        spots = beside + [(x, py + dy) for dy in (-9, 17, -22, 30) for x in (px + 7, px - 7 - wide)]
        spot = next((spot for spot in spots if self._free(*spot, label)), None)
        if spot is not None:
            self._write(*spot, label, "name")

    def svg(self) -> Markup:
        name = el("title", self.title)
        return el(
            "svg",
            name,
            el("desc", self.description),
            el("text", self.title, x=0, y=16, class_="panel-title"),
            self._grid(),
            *self._marks,
            viewBox=f"0 0 {WIDTH:g} {self.height:g}",
            role="img",
            class_="panel",
            aria_label=f"{self.title}. {self.description}",
        )

    def _grid(self) -> Markup:
        left, right, bottom = LEFT, WIDTH - RIGHT, self.height - BOTTOM
        parts = [el("text", self.y.label, x=0, y=36, class_="axis-label")]
        for tick in self.y.ticks:
            _, py = self.place(self.x.low, tick)
            parts.append(el("path", d=f"M{left:g} {py:.1f}H{right:g}", class_="grid"))
            parts.append(
                el("text", compact(tick), x=left - 7, y=py + 4, class_="tick", text_anchor="end")
            )
        for tick in self.x.ticks:
            px, _ = self.place(tick, self.y.low)
            parts.append(el("path", d=f"M{px:.1f} {bottom:g}v5", class_="axis"))
            parts.append(
                el("text", compact(tick), x=px, y=bottom + 18, class_="tick", text_anchor="middle")
            )
        parts.append(el("path", d=f"M{left:g} {bottom:g}H{right:g}", class_="axis"))
        middle = (left + right) / 2
        parts.append(
            el(
                "text",
                self.x.label,
                x=middle,
                y=bottom + 36,
                class_="axis-label",
                text_anchor="middle",
            )
        )
        return join(*parts)

    def _free(self, x: float, y: float, label: str) -> bool:
        box = (x, y - 10, x + CHARACTER * len(label), y + 3)
        inside = (
            box[0] >= LEFT
            and box[2] <= WIDTH
            and box[1] >= TOP - 14
            and box[3] <= self.height - BOTTOM
        )
        return inside and not any(_overlap(box, other) for other in self._taken)

    def _write(self, x: float, y: float, label: str, kind: str, hover: str | None = None) -> None:
        self._marks.append(
            el("text", el("title", hover) if hover else None, label, x=x, y=y, class_=kind)
        )
        self._taken.append((x, y - 10, x + CHARACTER * len(label), y + 3))


def marker(x: float, y: float, series: int, size: float = 5.5, hover: str | None = None) -> Markup:
    """The marker of a series around a pixel."""
    title, style = el("title", hover) if hover else None, f"marker s{series % COLOURS}"
    shape = SHAPES[series % len(SHAPES)]
    if shape in ("circle", "ring"):
        return el("circle", title, cx=x, cy=y, r=size * 0.95, class_=f"{style} {shape}")
    s = size
    path = {
        "square": f"M{x - s * 0.88:.2f} {y - s * 0.88:.2f}h{s * 1.76:.2f}v{s * 1.76:.2f}h{-s * 1.76:.2f}z",
        "triangle": f"M{x:.2f} {y - s * 1.15:.2f}l{s * 1.1:.2f} {s * 1.95:.2f}h{-s * 2.2:.2f}z",
        "down": f"M{x:.2f} {y + s * 1.15:.2f}l{s * 1.1:.2f} {-s * 1.95:.2f}h{-s * 2.2:.2f}z",
        "diamond": f"M{x:.2f} {y - s * 1.25:.2f}l{s * 1.15:.2f} {s * 1.25:.2f}l{-s * 1.15:.2f} {s * 1.25:.2f}"
        f"l{-s * 1.15:.2f} {-s * 1.25:.2f}z",
        "cross": f"M{x - s:.2f} {y - s:.2f}l{2 * s:.2f} {2 * s:.2f}m{-2 * s:.2f} 0l{2 * s:.2f} {-2 * s:.2f}",
        "plus": f"M{x - s * 1.2:.2f} {y:.2f}h{s * 2.4:.2f}M{x:.2f} {y - s * 1.2:.2f}v{s * 2.4:.2f}",
    }[shape]
    return el(
        "path", title, d=path, class_=f"{style}{' stroke' if shape in ('cross', 'plus') else ''}"
    )


def _below(points: Sequence[Point], high: float) -> list[list[Point]]:
    """The pieces of a polyline that lie at or below `high`, ending where it crosses."""
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


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
