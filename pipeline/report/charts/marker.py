"""Markers: a colour and a shape for each series, the same in every chart."""

from __future__ import annotations

from pipeline.report.markup import Markup, el

#: Colours of the page's style sheet (classes s0 …).
COLOURS = 7
#: Marker shapes. A pair of colour and shape repeats only after 56 series.
SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross", "plus", "ring")


def marker(x: float, y: float, series: int, size: float = 5.5, hover: str | None = None) -> Markup:
    """Return the marker of a series, centred on a pixel."""
    title, style = el("title", hover) if hover else None, f"marker s{series % COLOURS}"
    shape = SHAPES[series % len(SHAPES)]
    if shape in ("circle", "ring"):
        return el("circle", title, cx=x, cy=y, r=size * 0.95, class_=f"{style} {shape}")
    stroke = " stroke" if shape in ("cross", "plus") else ""
    return el("path", title, d=_path(shape, x, y, size), class_=f"{style}{stroke}")


def _path(shape: str, x: float, y: float, s: float) -> str:
    side = s * 1.76
    match shape:
        case "square":
            return f"M{x - s * 0.88:.2f} {y - s * 0.88:.2f}h{side:.2f}v{side:.2f}h{-side:.2f}z"
        case "triangle":
            return f"M{x:.2f} {y - s * 1.15:.2f}l{s * 1.1:.2f} {s * 1.95:.2f}h{-s * 2.2:.2f}z"
        case "down":
            return f"M{x:.2f} {y + s * 1.15:.2f}l{s * 1.1:.2f} {-s * 1.95:.2f}h{-s * 2.2:.2f}z"
        case "diamond":
            half, tall = s * 1.15, s * 1.25
            edges = f"l{half:.2f} {tall:.2f}l{-half:.2f} {tall:.2f}l{-half:.2f} {-tall:.2f}"
            return f"M{x:.2f} {y - tall:.2f}{edges}z"
        case "cross":
            edges = f"l{2 * s:.2f} {2 * s:.2f}m{-2 * s:.2f} 0l{2 * s:.2f} {-2 * s:.2f}"
            return f"M{x - s:.2f} {y - s:.2f}{edges}"
        case _:  # plus
            arm, length = s * 1.2, s * 2.4
            return f"M{x - arm:.2f} {y:.2f}h{length:.2f}M{x:.2f} {y - arm:.2f}v{length:.2f}"
