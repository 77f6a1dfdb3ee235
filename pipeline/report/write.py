"""Writing a report's three files."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import atomic
from pipeline.report.document import Report
from pipeline.report.markdown import markdown
from pipeline.report.page import page


def write(report: Report, out: Path) -> list[Path]:
    """Write report.json, report.md and report.html into `out`; return their paths."""
    atomic.write_json(out / "report.json", report)
    atomic.write_text(out / "report.md", markdown(report))
    atomic.write_text(out / "report.html", page(report))
    return [out / name for name in ("report.json", "report.md", "report.html")]
