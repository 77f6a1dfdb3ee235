"""Escaping: any text comes back as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.markup import el


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
