"""Tables as Markdown."""

from __future__ import annotations

import re

from pipeline.report.markdown import layout
from pipeline.report.table import Table


def test_a_markdown_cell_is_neither_a_tag_nor_a_link_nor_two_cells() -> None:
    table = Table("t", ["model", "score"], [["<img src=x>|[a](http://b)\nc", "0.5 [0.4, 0.6]"]])
    lines = layout(table).splitlines()
    assert len(lines) == 3
    assert "<img" not in lines[2]
    assert "](" not in lines[2]
    assert len(re.findall(r"(?<!\\)\|", lines[2])) == 3
    assert "0.5 [0.4, 0.6]" in lines[2]
