"""The report as Markdown; its first table also goes to the terminal."""

from __future__ import annotations

import html
import re
import unicodedata

from pipeline.report import model_tables, stage_tables
from pipeline.report.document import Report
from pipeline.report.table import Table

#: Characters that could begin a tag or an entity.
_TAG = re.compile(r"<(?=[a-zA-Z/!?])|&(?=[a-zA-Z#])")


def markdown(report: Report) -> str:
    lines = [f"# {_text(report['name'])}: models of {_text(report['run'])}", ""]
    for title, entries in (("Missing", report["missing"]), ("Take care", report["warnings"])):
        if entries:
            lines += [f"{title}:", "", *(f"- {_text(entry)}" for entry in entries), ""]
    for table in (table for table in _tables(report) if table.rows):
        lines += [f"## {_text(table.title)}", "", layout(table)]
        if table.note:
            lines += [_text(table.note), ""]
    return "\n".join(lines).rstrip() + "\n"


def _tables(report: Report) -> list[Table]:
    tables = [model_tables.overview(report)]
    for task in report["tasks"]:
        tables += [model_tables.scores(report, task), model_tables.differences(report, task)]
    tables += [model_tables.speed(report), stage_tables.totals(report)]
    return [*tables, stage_tables.cost(report), stage_tables.lineage(report)]


def layout(table: Table) -> str:
    """Return a Markdown table whose columns also line up as plain text."""
    rows = [[_text(cell) for cell in row] for row in [table.headings(), *table.rows]]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    left = [table.is_text(column) for column in range(len(widths))]

    def line(cells: list[str]) -> str:
        padded = []
        for cell, width, text in zip(cells, widths, left, strict=True):
            space = " " * (width - _width(cell))
            padded.append(cell + space if text else space + cell)
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if text else "-" * (width - 1) + ":"
        for width, text in zip(widths, left, strict=True)
    ]
    return "\n".join([line(rows[0]), f"| {' | '.join(rule)} |", *map(line, rows[1:])]) + "\n"


def _text(value: str) -> str:
    """Return one line without markup: text never becomes a tag, a link or another column."""
    value = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in value
    )
    value = _TAG.sub(lambda found: html.escape(found[0], quote=False), value)
    for mark in "\\`*|":
        value = value.replace(mark, f"\\{mark}")
    return value.replace("](", "]\\(")


def _width(value: str) -> int:
    return sum(
        2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1
        for c in value
    )
