"""A table of text cells, laid out later as Markdown or HTML."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Table:
    title: str
    #: The first column is text; those that begin with "<" are text as well, without it.
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    #: What the numbers are, in a sentence or two.
    note: str = ""

    def is_text(self, column: int) -> bool:
        return column == 0 or self.header[column].startswith("<")

    def headings(self) -> list[str]:
        return [heading.removeprefix("<") for heading in self.header]
