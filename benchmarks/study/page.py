"""docs/study.md: tables and plots, put between markers of a text that people write.

A block lies between `<!-- study: NAME -->` and `<!-- /study -->`. The text outside the blocks says
what the numbers mean, and is written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.study import plots
from benchmarks.study.grid import short
from pipeline.artifacts import atomic

Record = dict[str, Any]
_BLOCK = re.compile(r"(<!-- study: (\w+) -->\n).*?(<!-- /study -->)", re.DOTALL)
#: A difference with a p-value below this is shown in bold.
SIGNIFICANT = 0.05


def write_page(record: Record, page: Path) -> None:
    """Renew every block of `page`, and the plots in images/ next to it.

    A page that does not exist is made of blocks alone.
    """
    names = ["corpus", "teacher", *record["groups"], "costs"]
    if not page.is_file():
        atomic.write_text(
            page, "".join(f"<!-- study: {name} -->\n<!-- /study -->\n\n" for name in names)
        )
    found = blocks(record)
    text = page.read_text(encoding="utf-8")
    atomic.write_text(
        page, _BLOCK.sub(lambda match: match[1] + found.get(match[2], "") + match[3], text)
    )
    images = page.parent / "images"
    atomic.write_text(
        images / "study-teacher.svg",
        plots.curves("The teacher", [("", record["teacher"]["curve"])]),
    )
    for name, group in record["groups"].items():
        if group["paths"]:
            atomic.write_text(images / f"study-{name}.svg", plots.group(group))


def blocks(record: Record) -> dict[str, str]:
    found = {"corpus": _corpus(record), "teacher": _teacher(record), "costs": _costs(record)}
    return found | {name: _group(name, group) for name, group in record["groups"].items()}


def _corpus(record: Record) -> str:
    lines = ["| domain | documents | million characters |", "|---|---:|---:|"]
    for name, found in record["settings"]["domains"].items():
        lines.append(f"| {name} | {found['documents']:,} | {found['characters'] / 1e6:.1f} |")
    tokens, students = record["settings"]["teacher_tokens"], record["settings"]["student_tokens"]
    lines += [
        "",
        f"Training rows: {tokens['rows']:,} for the teacher "
        f"({tokens['tokens'] / 1e6:.1f} M tokens), "
        f"{students['rows']:,} of them corrupted once for the students "
        f"({students['tokens'] / 1e6:.2f} M).",
    ]
    return "\n".join(lines) + "\n"


def _teacher(record: Record) -> str:
    teacher = record["teacher"]
    lines = [
        "| step | " + " | ".join(f"{step:,}" for step, _ in teacher["curve"]) + " |",
        "|---|" + "---:|" * len(teacher["curve"]),
        "| LM loss | " + " | ".join(f"{loss:.3f}" for _, loss in teacher["curve"]) + " |",
    ]
    scores = [
        f"{task} {found['metric']} {_spread(found)}" for task, found in teacher["tasks"].items()
    ]
    return (
        "\n".join(
            [
                *lines,
                "",
                *([f"Fine-tuned as the students are: {', '.join(scores)}."] if scores else []),
            ]
        )
        + "\n"
    )


def _group(name: str, group: Record) -> str:
    paths = group["paths"]
    if not paths:
        return "Not run yet.\n"
    reference = group["reference"]
    lines = [
        "| path | seeds | LM loss | above reference | p | at equal FLOPs "
        "| topic | above | p | sentiment | above | p |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for path, found in sorted(paths.items(), key=lambda item: item[1]["lm_loss"]["mean"]):
        against, at_budget = found.get("against_reference"), found.get("lm_loss_at_budget")
        cells = [
            f"{short(path)}{' (reference)' if path == reference else ''}",
            str(len(found["seeds"])),
            _spread(found["lm_loss"], 4),
            _signed(against["mean"], against["p_value"], 4) if against else "",
            _p(against["p_value"]) if against else "",
            f"{at_budget['mean']:.4f}" if at_budget else "",
        ]
        for task in ("topic", "sentiment"):
            score = found["tasks"].get(task)
            apart = score.get("against_reference") if score else None
            cells += [
                _spread(score) if score else "",
                _signed(apart["difference"], apart["p_value"], 3) if apart else "",
                _p(apart["p_value"]) if apart else "",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = sorted({len(found["seeds"]) for found in paths.values()})
    return "\n".join([*lines, "", f"![{group['title']}](images/study-{name}.svg)", ""]) + (
        f"\nUnfinished: some paths have {seeds[0]} of {seeds[-1]} seeds.\n"
        if len(seeds) > 1
        else ""
    )


def _costs(record: Record) -> str:
    lines = [
        "| objective | FLOPs a step | of the LM loss alone "
        "| seconds a step | of the LM loss alone |",
        "|---|---:|---:|---:|---:|",
    ]
    group = next((found for name, found in record["groups"].items() if found["paths"]), None)
    if group is not None and group["reference"] in group["paths"]:
        base = group["paths"][group["reference"]]
        for path, found in group["paths"].items():
            flops, seconds = found["flops_per_step"], found["seconds_per_step"]
            lines.append(
                f"| {short(path)} | {flops / 1e9:.1f} G | {flops / base['flops_per_step']:.2f} "
                f"| {seconds:.2f} | {seconds / base['seconds_per_step']:.2f} |"
            )
    lines += ["", "| cache | MB | bytes a token |", "|---|---:|---:|"]
    for name, found in record["caches"].items():
        if "assistant" not in name:
            lines.append(
                f"| {name} | {found['bytes'] / 1e6:.0f} | {found['bytes_per_token']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def _spread(found: Record, digits: int = 3) -> str:
    return f"{found['mean']:.{digits}f}" + (
        f" ± {found['sd']:.{digits}f}" if found["sd"] is not None else ""
    )


def _signed(value: float, p_value: float | None, digits: int) -> str:
    shown = f"{value:+.{digits}f}"
    return f"**{shown}**" if p_value is not None and p_value < SIGNIFICANT else shown


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
