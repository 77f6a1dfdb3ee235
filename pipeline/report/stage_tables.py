"""Tables of the stages of a run: cost of each link, total cost of each model, lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.report import readable
from pipeline.report.document import Report, StageRecord
from pipeline.report.table import Table


def cost(report: Report) -> Table:
    """Return what each link of the chain cost."""
    header = ["artifact", "steps", "rows", "tokens", "time", "tokens/s"]
    table = Table("Training cost of each link", [*header, "processes", "FLOPs", "on disk"])
    for stage in report["stages"]:
        rate = stage["tokens"] / stage["seconds"] if stage["tokens"] and stage["seconds"] else None
        steps = readable.number(stage["steps"])
        if stage["state"] != "complete" and stage["total_steps"]:
            steps += f" of {stage['total_steps']:,}"
        table.rows.append(
            [
                stage["artifact"],
                steps,
                readable.number(stage["rows"]),
                readable.scaled(stage["tokens"]),
                readable.duration(stage["seconds"]),
                readable.number(rate),
                str(stage["processes"]),
                readable.scaled(stage["flops"]),
                readable.scaled(stage["bytes"], "B"),
            ]
        )
    table.note = (
        "Time at work, without start-up, validation and interruptions; a cache's from when its "
        "shards were written. FLOPs: of matrix products, the teacher's included where it runs."
    )
    return table


def totals(report: Report) -> Table:
    """Return what each model cost in all: its own stage and every link after the reference."""
    header = ["model", "<stages", "steps", "tokens", "time", "FLOPs", "cache on disk"]
    table = Table("What each model cost", header)
    makers = {stage["artifact"]: stage for stage in report["stages"]}
    reference = report["models"][report["reference"]]["directory"] if report["reference"] else None
    for name, row in report["models"].items():
        own = (row["directory"] or "").removesuffix("/hf")
        stop = {(reference or "").removesuffix("/hf")} - {own}
        chain = [makers[key] for key in _chain(own, makers, stop)]
        if not chain:
            continue
        trained = [stage for stage in chain if stage["steps"] is not None]
        caches = [stage["bytes"] for stage in chain if stage["steps"] is None]
        cached = [size for size in caches if size is not None]
        table.rows.append(
            [
                name,
                " → ".join(stage["artifact"] for stage in chain),
                readable.number(_sum(stage["steps"] for stage in trained)),
                readable.scaled(_sum(stage["tokens"] for stage in trained)),
                readable.duration(_sum(stage["seconds"] for stage in chain)),
                readable.scaled(_sum(stage["flops"] for stage in chain)),
                readable.scaled(sum(cached), "B") if cached else readable.NOTHING,
            ]
        )
    if report["reference"]:
        table.note = (
            f"Counted from {report['reference']} on: "
            "its own pretraining and the preparation of the text are not included."
        )
    return table


def lineage(report: Report) -> Table:
    """Return what each artifact is made from, and the hashes that say so."""
    header = ["artifact", "<teacher", "<inputs", "<objective", "<first weights", "LM loss"]
    table = Table("Lineage", [*header, "<recipe", "<fingerprint"])
    for stage in report["stages"]:
        inputs = [name for role, name in stage["inputs"].items() if role != "teacher"]
        table.rows.append(
            [
                stage["artifact"],
                stage["inputs"].get("teacher", readable.NOTHING),
                ", ".join(inputs) or readable.NOTHING,
                stage["objective"] or readable.NOTHING,
                stage["initial"] or readable.NOTHING,
                readable.number(stage["validation_loss"], 3),
                (stage["recipe"] or readable.NOTHING)[:8],
                (stage["fingerprint"] or readable.NOTHING)[:8],
            ]
        )
    table.note = (
        "Recipe: sha256 of the resolved recipe next to the artifact. "
        "Fingerprint: of what decides its content."
    )
    return table


def _chain(key: str, makers: Mapping[str, StageRecord], stop: set[str]) -> list[str]:
    """Return all artifacts that `key` is made from, then `key`.

    Artifacts in `stop`, and everything before them, are left out; so are text and tokenizer.
    """
    if key not in makers or key in stop or makers[key]["stage"] == "tokens":
        return []
    before: list[str] = []
    for role in ("teacher", "cache"):
        links = _chain(makers[key]["inputs"].get(role, ""), makers, stop)
        before += [link for link in links if link not in before]
    return [*before, key]


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum; None when one of the values is not known."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
