"""Tables over the stages of a run: what every link of the chain cost, what a model cost in all, and what is made from what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.report import words
from pipeline.report.document import Report, Stage
from pipeline.report.table import Table


def cost(report: Report) -> Table:
    """What every link of the chain cost."""
    header = [
        "artifact",
        "steps",
        "rows",
        "tokens",
        "time",
        "tokens/s",
        "processes",
        "FLOPs",
        "on disk",
    ]
    table = Table("Training cost of each link", header)
    for stage in report["stages"]:
        rate = stage["tokens"] / stage["seconds"] if stage["tokens"] and stage["seconds"] else None
        steps = words.number(stage["steps"])
        if stage["state"] != "complete" and stage["total_steps"]:
            steps += f" of {stage['total_steps']:,}"
        table.rows.append(
            [
                stage["artifact"],
                steps,
                words.number(stage["rows"]),
                words.scaled(stage["tokens"]),
                words.duration(stage["seconds"]),
                words.number(rate),
                str(stage["processes"]),
                words.scaled(stage["flops"]),
                words.scaled(stage["bytes"], "B"),
            ]
        )
    table.note = (
        "Time at work, without start-up, validation and interruptions; a cache's from when its shards were written. FLOPs: of "
        "matrix products, the teacher's included where it runs."
    )
    return table


def totals(report: Report) -> Table:
    """What each model cost in all: its own stage and every link before it, up to the reference."""
    table = Table(
        "What each model cost",
        ["model", "<stages", "steps", "tokens", "time", "FLOPs", "cache on disk"],
    )
    makers = {stage["artifact"]: stage for stage in report["stages"]}
    whole = report["models"][report["reference"]]["directory"] if report["reference"] else None
    for name, row in report["models"].items():
        own = (row["directory"] or "").removesuffix("/hf")
        stop = {(whole or "").removesuffix("/hf")} - {own}
        chain = [makers[key] for key in _chain(own, makers, stop)]
        if not chain:
            continue
        trained = [stage for stage in chain if stage["steps"] is not None]
        cached = [
            stage["bytes"]
            for stage in chain
            if stage["steps"] is None and stage["bytes"] is not None
        ]
        table.rows.append(
            [
                name,
                " → ".join(stage["artifact"] for stage in chain),
                words.number(_sum(stage["steps"] for stage in trained)),
                words.scaled(_sum(stage["tokens"] for stage in trained)),
                words.duration(_sum(stage["seconds"] for stage in chain)),
                words.scaled(_sum(stage["flops"] for stage in chain)),
                words.scaled(sum(cached), "B") if cached else words.NOTHING,
            ]
        )
    if report["reference"]:
        table.note = f"Down from {report['reference']}, whose own pretraining the others do not count, nor the text's preparation."
    return table


def _chain(key: str, makers: Mapping[str, Stage], stop: set[str]) -> list[str]:
    """All that `key` is made from, before `key` itself; nothing of `stop`, nor text and tokenizer."""
    if key not in makers or key in stop or makers[key]["stage"] == "tokens":
        return []
    found: list[str] = []
    for role in ("teacher", "cache"):
        found += [
            other
            for other in _chain(makers[key]["inputs"].get(role, ""), makers, stop)
            if other not in found
        ]
    return [*found, key]


def _sum(values: Iterable[float | None]) -> float | None:
    """None when one of them is not known."""
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def lineage(report: Report) -> Table:
    header = [
        "artifact",
        "<teacher",
        "<inputs",
        "<objective",
        "<first weights",
        "LM loss",
        "<recipe",
        "<fingerprint",
    ]
    table = Table("Lineage", header)
    for stage in report["stages"]:
        others = [name for role, name in stage["inputs"].items() if role != "teacher"]
        table.rows.append(
            [
                stage["artifact"],
                stage["inputs"].get("teacher", words.NOTHING),
                ", ".join(others) or words.NOTHING,
                stage["objective"] or words.NOTHING,
                stage["initial"] or words.NOTHING,
                words.number(stage["validation_loss"], 3),
                (stage["recipe"] or words.NOTHING)[:8],
                (stage["fingerprint"] or words.NOTHING)[:8],
            ]
        )
    table.note = "Recipe: sha256 of the resolved recipe beside the artifact. Fingerprint: of what decides its content."
    return table
