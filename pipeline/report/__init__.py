"""The report of a run: report.json, report.md and a page that opens offline (docs/report.md).

Data flows one way: `assemble` reads the run into a `document`; tables and charts lay it out.

- assemble.py: the whole report from a run on disk.
- document.py: the form of report.json.
- quality.py: scores, retention, differences and speed of finished units.
- stage_records.py: inputs and cost of the stages before fine-tuning; run_index.py, cost.py.
- loss_curves.py: curves out of metrics.jsonl; run_files.py: lenient reading of a run's files.
- model_tables.py, stage_tables.py: the tables, as table.py's cells; readable.py: numbers as text.
- charts/: the charts, as SVG; markup.py: escaped HTML and SVG elements.
- markdown.py, page.py, page.css: the two layouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline.artifacts import atomic
from pipeline.recipe import Recipe


class WrittenReport(NamedTuple):
    files: list[Path]
    #: The first table, for the terminal.
    table: str


def write_report(
    run: Path, name: str = "comparison", out: Path | None = None, recipe: Recipe | None = None
) -> WrittenReport:
    """Write report.json, report.md and report.html of comparison `name` of `run`.

    What is not finished is left out and listed as missing.
    out: where to write; RUN/finetune/<name> when None.
    recipe: the models and tasks to compare; the recipe that the run keeps when None.
    Raises DataError when `run` is no run, or has other comparisons but not this one.
    """
    from pipeline.report import model_tables
    from pipeline.report.assemble import assemble
    from pipeline.report.markdown import layout, markdown
    from pipeline.report.page import page

    report = assemble(run, name, recipe)
    out = out if out is not None else run / "finetune" / name
    atomic.write_json(out / "report.json", report)
    atomic.write_text(out / "report.md", markdown(report))
    atomic.write_text(out / "report.html", page(report))
    files = [out / f"report.{kind}" for kind in ("json", "md", "html")]
    return WrittenReport(files, layout(model_tables.overview(report)))
