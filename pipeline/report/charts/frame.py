"""The frame that all panels share: width, title, text of ticks and axes. Sizes are in CSS pixels.

Panels stay this small on every screen.
A page puts more of them next to each other, so their type stays readable on a phone.
"""

from __future__ import annotations

from typing import Literal

from pipeline.report.markup import Markup, el

WIDTH, HEIGHT = 360.0, 250.0
#: Mean width of a character of the labels' 11 px type.
CHARACTER = 6.1


def framed(title: str, description: str, height: float, *parts: Markup) -> Markup:
    """Return a panel: its title, and `parts` below. description: for readers who do not see it."""
    return el(
        "svg",
        el("title", title),
        el("desc", description),
        el("text", title, x=0, y=16, class_="panel-title"),
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        class_="panel",
        aria_label=f"{title}. {description}",
    )


def tick_text(label: str, x: float, y: float, anchor: Literal["middle", "end"]) -> Markup:
    return el("text", label, x=x, y=y, class_="tick", text_anchor=anchor)


def x_axis_label(label: str, left: float, right: float, y: float) -> Markup:
    """Return the label of an x axis, centred between its ends."""
    middle = (left + right) / 2
    return el("text", label, x=middle, y=y, class_="axis-label", text_anchor="middle")
