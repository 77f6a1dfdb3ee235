"""The parts of the report: escaping, axes, charts whose marks stay inside, tables as Markdown."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import readable
from pipeline.report.charts.axis import linear_axis, size_axis
from pipeline.report.charts.bars import Bar, bars
from pipeline.report.charts.frame import HEIGHT, WIDTH
from pipeline.report.charts.marker import SHAPES
from pipeline.report.charts.panel import BOTTOM, LEFT, RIGHT, TOP, Panel
from pipeline.report.markdown import layout
from pipeline.report.markup import el
from pipeline.report.table import Table

numbers = st.floats(-1e9, 1e9, allow_nan=False).map(
    lambda value: 0.0 if abs(value) < 1e-6 else value
)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text, self.titles = "", list[str | None]()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [value for name, value in attributes if name == "title"]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text())
def test_any_text_comes_back_as_text(text: str) -> None:
    reader = _Reader()
    reader.feed(el("p", text, title=text))
    shown = re.sub(
        "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]",
        "\ufffd",
        text,
    )
    assert reader.tags == ["p"]
    assert reader.text == shown
    assert reader.titles == [shown]


def test_what_cannot_be_encoded_or_turns_the_text_is_replaced() -> None:
    assert el("b", "a\ud800b\u202ec\x00") == "<b>a\ufffdb\ufffdc\ufffd</b>"


@given(st.lists(numbers, min_size=1, max_size=20))
def test_a_linear_axis_covers_its_values_with_a_few_even_ticks(values: list[float]) -> None:
    axis = linear_axis("x", values)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values)
    assert max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 8
    steps = [after - before for before, after in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)


@given(st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=20))
def test_a_size_axis_covers_its_values_and_has_ticks(values: list[float]) -> None:
    axis = size_axis("x", values)
    assert all(-1e-9 <= axis.fraction(value) <= 1 + 1e-9 for value in values)
    assert axis.ticks
    assert axis.logarithmic == (max(values) > 5 * min(values))


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


def test_bars_show_shares_above_the_whole_and_below_nothing() -> None:
    svg = bars(
        "t",
        "d",
        "%",
        [Bar("over", 1, 1.31, (1.2, 1.4)), Bar("under", 2, -0.2, None), Bar("none", 3, 0.0, None)],
    )
    rects = [float(r.attrib["width"]) for r in ElementTree.fromstring(svg).iter("rect")]
    assert rects[0] / rects[1] == pytest.approx(1.31 / 0.2, rel=0.02)
    assert "131%" in svg
    assert "-20%" in svg


def test_a_markdown_cell_is_neither_a_tag_nor_a_link_nor_two_cells() -> None:
    table = Table("t", ["model", "score"], [["<img src=x>|[a](http://b)\nc", "0.5 [0.4, 0.6]"]])
    lines = layout(table).splitlines()
    assert len(lines) == 3
    assert "<img" not in lines[2]
    assert "](" not in lines[2]
    assert len(re.findall(r"(?<!\\)\|", lines[2])) == 3
    assert "0.5 [0.4, 0.6]" in lines[2]


def test_numbers_are_written_as_people_read_them() -> None:
    assert readable.parameters(8_876_544) == "8.88 M"
    assert readable.parameters(2_849_757_184) == "2.85 B"
    assert readable.scaled(569_282_962, "B") == "569 MB"
    assert readable.duration(7.66) == "7.7 s"
    assert readable.duration(3725) == "1 h 2 min"
    assert readable.p_value(0.0004) == "< 0.001"
    assert readable.metric_name("mismatched/accuracy") == "accuracy (mismatched)"
    assert readable.number(None) == readable.NOTHING
    assert not math.isnan(float(readable.number(1234.5, 1).replace(",", "")))
