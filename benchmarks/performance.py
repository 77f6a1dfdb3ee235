"""Write docs/performance.md from the committed results: `make performance`.

python benchmarks/performance.py docs/performance.md
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INTRODUCTION = (
    "# Performance\n\n"
    "This page lists what the benchmarks measured.\n"
    "`make performance` writes it from `benchmarks/results/`, which holds the output of each "
    "script on one kind of machine; do not edit it.\n"
    "A ratio compares two things in one run, so it says more than the times next to it.\n"
    "`--json OUT` writes a result of your own."
)


def purpose(script: Path) -> str:
    """Return the first line of a benchmark's docstring."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").splitlines()[0]


def section(result: dict[str, Any]) -> list[str]:
    name, figures, goals, where = (
        result["benchmark"],
        result["figures"],
        result["goals"],
        result["environment"],
    )
    lines = [
        "",
        f"### {name}",
        "",
        purpose(HERE / f"{name}.py"),
        "",
        "| figure | measured | goal |",
        "|---|---:|---|",
    ]
    for figure, value in figures.items():
        goal = f"{goals[figure]['op']} {goals[figure]['value']:g}" if figure in goals else ""
        missed = "" if figure not in goals or _met(value, goals[figure]) else ", **missed**"
        lines.append(f"| {figure} | {value:,.4g} | {goal}{missed} |")
    versions = ", ".join(f"{package} {version}" for package, version in where["versions"].items())
    device = where["gpu"] or where["cpu"]
    return [
        *lines,
        "",
        f"{device}, {where['threads']} threads; {versions}; commit {where['commit']}.",
    ]


def _met(value: float, goal: dict[str, Any]) -> bool:
    from benchmarks.common import OPERATORS

    return bool(OPERATORS[goal["op"]](value, goal["value"]))


def main() -> None:
    lines = [INTRODUCTION]
    for machine in sorted(
        path for path in (HERE / "results").iterdir() if path.is_dir() and path.name != "study"
    ):
        lines += ["", f"## {machine.name}"]
        for path in sorted(machine.glob("*.json")):
            lines += section(json.loads(path.read_text(encoding="utf-8")))
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
