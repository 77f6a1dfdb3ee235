"""A table of text cells, to be laid out as Markdown or HTML."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Table:
    title: str
    #: A "<" marks a column of text, and is not shown. The first column is always text.
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    #: A sentence or two that say what the numbers are.
    note: str = ""

    def is_text(self, column: int) -> bool:
        return column == 0 or self.header[column].startswith("<")

    def headings(self) -> list[str]:
        return [heading.removeprefix("<") for heading in self.header]
