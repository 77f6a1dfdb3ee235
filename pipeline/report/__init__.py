"""The report over a run: what its stages left on disk, as report.json, report.md and a page that opens offline.

Data flows one way: `collect` reads the run into a `document`, which `tables` and `charts` lay out for `markdown` and `page`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline.artifacts import atomic
from pipeline.recipe import Recipe


class Written(NamedTuple):
    files: list[Path]
    #: The first table, for the terminal.
    table: str


def write_report(
    run: Path, name: str = "comparison", out: Path | None = None, recipe: Recipe | None = None
) -> Written:
    """Report on comparison `name` of `run`, whatever of it is finished: report.json, report.md and report.html.

    out: where to write; RUN/finetune/<name> when None. recipe: what is compared; the one that the run keeps when None.
    Raises DataError when `run` is no run or has other comparisons but not this one.
    """
    from pipeline.report import tables
    from pipeline.report.collect import collect
    from pipeline.report.markdown import layout, markdown
    from pipeline.report.page import page

    report = collect(run, name, recipe)
    out = out if out is not None else run / "finetune" / name
    atomic.write_json(out / "report.json", report)
    atomic.write_text(out / "report.md", markdown(report))
    atomic.write_text(out / "report.html", page(report))
    files = [out / f"report.{kind}" for kind in ("json", "md", "html")]
    return Written(files, layout(tables.overview(report)))
