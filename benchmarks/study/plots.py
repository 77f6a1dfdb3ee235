"""The study's plots as SVG files that stand alone, made from the report's own panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.grid import short
from pipeline.report.charts.axis import linear_axis
from pipeline.report.charts.frame import WIDTH
from pipeline.report.charts.marker import marker
from pipeline.report.charts.panel import Panel
from pipeline.report.markup import Markup, el, join

_STYLE = Path(__file__).resolve().parents[2] / "pipeline" / "report" / "page.css"
_GAP, _LINE = 24.0, 20.0
_LABEL = 270.0

Record = dict[str, Any]


def group(found: Record) -> str:
    """Return two panels: LM losses (a mark a seed, a bar at the mean), and the mean curves."""
    paths = sorted(found["paths"].items(), key=lambda item: item[1]["lm_loss"]["mean"])
    curves = [(short(name), record["curve"]) for name, record in paths]
    dots = _dots(found["title"], [(short(name), record["lm_loss"]) for name, record in paths])
    return _document(
        WIDTH + _LABEL + _GAP + WIDTH,
        max(250.0, 74 + _LINE * len(paths)),
        dots,
        _curves("LM loss by step", curves),
    )


def curves(title: str, lines: Sequence[tuple[str, Sequence[Sequence[float]]]]) -> str:
    return _document(WIDTH, 250.0, _curves(title, lines))


def _dots(title: str, rows: Sequence[tuple[str, Record]]) -> Markup:
    axis = linear_axis(
        "validation LM loss (nats a target token)",
        [value for _, row in rows for value in row["values"]],
    )
    left, right, top = _LABEL, _LABEL + WIDTH - 14, 52.0
    bottom = top + _LINE * len(rows)
    parts: list[Markup] = [
        el("text", title, x=0, y=16, class_="panel-title"),
        el("text", axis.label, x=0, y=36, class_="axis-label"),
    ]

    def place(value: float) -> float:
        return left + axis.fraction(value) * (right - left)

    for tick in axis.ticks:
        parts.append(el("path", d=f"M{place(tick):.1f} {top:g}V{bottom:g}", class_="grid"))
        parts.append(
            el(
                "text",
                f"{tick:g}",
                x=place(tick),
                y=bottom + 16,
                class_="tick",
                text_anchor="middle",
            )
        )
    for index, (name, row) in enumerate(rows):
        y = top + _LINE * (index + 0.5)
        parts.append(el("text", name, x=left - 10, y=y + 4, class_="tick", text_anchor="end"))
        for value in row["values"]:
            parts.append(marker(place(value), y, index, 3.5, f"{name}: {value:.4f}"))
        parts.append(
            el(
                "path",
                d=f"M{place(row['mean']):.1f} {y - 7:.1f}v14",
                class_=f"whisker s{index % 7}",
            )
        )
    return join(*parts)


def _curves(title: str, lines: Sequence[tuple[str, Sequence[Sequence[float]]]]) -> Markup:
    steps = [x for _, points in lines for x, _ in points]
    # Without the first validation: it is so high that the rest would have no room.
    values = [y for _, points in lines for _, y in points[1:] or points]
    panel = Panel(
        title,
        title,
        linear_axis("optimiser steps", [0, *steps], integers=True),
        linear_axis("LM loss", values),
    )
    for index, (name, points) in enumerate(lines):
        pairs = [(float(x), float(y)) for x, y in points]
        panel.line(pairs, index, "train", f"{name}: {pairs[-1][1]:.4f} after step {pairs[-1][0]:g}")
        panel.marker(*pairs[-1], index, f"{name}: {pairs[-1][1]:.4f}", 3.5)
    return panel.svg()


def _document(width: float, height: float, *parts: Markup) -> str:
    style = el("style", Markup(_STYLE.read_text(encoding="utf-8")))
    placed = [el("g", parts[0])]
    if len(parts) > 1:
        placed.append(el("svg", parts[1], x=width - WIDTH, y=0, width=WIDTH, height=250))
    ground = el("rect", x=0, y=0, width=width, height=height, fill="var(--ground)")
    return el(
        "svg", style, ground, *placed, xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}", width=width, height=height,
        font_family="system-ui, sans-serif",
    ) + "\n"  # fmt: skip
