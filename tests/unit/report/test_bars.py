"""Bars of shares."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.report.charts.bars import Bar, bars


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
