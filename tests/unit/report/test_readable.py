"""Numbers as people read them."""

from __future__ import annotations

import math

from pipeline.report import readable


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
