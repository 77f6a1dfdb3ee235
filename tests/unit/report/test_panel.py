"""Panels: marks stay inside, names do not overlap, every series has its own look."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from pipeline.report.charts.axis import linear_axis, size_axis
from pipeline.report.charts.frame import HEIGHT, WIDTH
from pipeline.report.charts.marker import SHAPES
from pipeline.report.charts.panel import BOTTOM, LEFT, RIGHT, TOP, Panel


def test_marks_of_a_panel_stay_inside_it_and_names_do_not_overlap() -> None:
    panel = Panel(
        "t", "d", size_axis("parameters", [5e6, 9e6]), linear_axis("accuracy", [0.3, 0.5])
    )
    points = [(5e6, 0.34), (5e6, 0.30), (5.1e6, 0.31), (9e6, 0.5)]
    for index, (x, y) in enumerate(points):
        panel.interval(x, y - 0.02, y + 0.02, index)
        panel.marker(x, y, index, f"model {index}")
    for index, (x, y) in enumerate(points):
        panel.label(x, y, f"model-{index}")
    panel.level(0.45, "tfidf", "tfidf 0.45")
    panel.level(0.9, "far", "far 0.9")
    svg = ElementTree.fromstring(panel.svg())  # well-formed
    for x, y in points:
        px, py = panel.pixel(x, y)
        assert LEFT <= px <= WIDTH - RIGHT
        assert TOP <= py <= HEIGHT - BOTTOM
    named = {
        text.text: text for text in svg.iter("text") if text.get("class") in ("name", "level-label")
    }
    assert "model-3" in named
    labels = [text for text in svg.iter("text") if text.get("class") == "name"]
    boxes = [(float(t.attrib["x"]), float(t.attrib["y"])) for t in labels]
    assert all(
        abs(a[1] - b[1]) >= 13 or abs(a[0] - b[0]) >= 40
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )
    beyond = [
        t
        for t in svg.iter("text")
        if (t.get("class") == "level-label" and "↑" in "".join(t.itertext()))
    ]
    assert len(beyond) == 1, "a baseline beyond the axis is named at its edge"


def test_every_series_has_a_shape_or_colour_of_its_own() -> None:
    panel = Panel("t", "d", linear_axis("x", [0, 60]), linear_axis("y", [0, 1]))
    for index in range(7 * len(SHAPES)):
        panel.marker(index, 0.5, index, "")
    marks = [
        m for m in ElementTree.fromstring(panel.svg()).iter() if "marker" in m.get("class", "")
    ]
    kinds = {(m.get("class"), re.sub(r"^M[\d.]+ [\d.]+", "", m.get("d", ""))) for m in marks}
    assert len(kinds) == len(marks)
