"""The report's tables as text cells; Markdown, HTML and the terminal lay out the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.downstream.speed import Measurement
from pipeline.report import words
from pipeline.report.document import ModelRow, Report, Stage


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


def overview(report: Report) -> Table:
    """One row a model: size, quality on every task's own metric with its interval, retention, speed."""
    timed = [task for task in report["tasks"] if any(task in row["speed"] for row in report["models"].values())]
    header = ["model", "layers", "parameters", "compression", "LM loss"]
    for task, info in report["tasks"].items():
        header += [f"{task} {words.metric_name(info['metric'])}".strip(), f"{task} retention"]
    header += [f"{task} ms/row" for task in timed]
    table = Table("Models at a glance", header)
    for name, row in report["models"].items():
        size = row["size"]
        cells = [
            name,
            f"{size['encoder_layers']}+{size['decoder_layers']}" if size else words.NOTHING,
            f"{words.parameters(size['parameters'])} [{words.parameters(size['embedding_parameters'])}]"
            if size
            else words.NOTHING,
            words.times(row["compression"]),
            words.number(row["validation_lm_loss"], 3),
        ]
        for task, info in report["tasks"].items():
            cells += [_estimate(row, task, info["metric"]), retention(report, name, task)]
        for task in timed:
            single = single_row(row, task)
            cells.append(words.number(single["milliseconds"] if single else None, 1))
        table.rows.append(cells)
    table.note = _overview_note(report)
    return table


def scores(report: Report, task: str) -> Table:
    """Every metric of one task."""
    info = report["tasks"][task]
    header = ["model", *(words.metric_name(metric) for metric in info["metrics"])]
    header += ["retention", "<trained on", "seeds", "learning rate", "best step"]
    table = Table(f"{task}", header)
    for name, row in report["models"].items():
        if task not in row["scores"]:
            continue
        how = row["training"][task]
        table.rows.append(
            [
                name,
                *(_estimate(row, task, metric) for metric in info["metrics"]),
                retention(report, name, task),
                f"{how['rows']:,} {how['data']}" + (f" from {how['teacher']}" if how["teacher"] else ""),
                words.NOTHING if row["baseline"] else str(len(how["seeds"])),
                words.NOTHING if how["learning_rate"] is None else f"{how['learning_rate']:g}",
                ", ".join(f"{steps['best']:,} of {steps['trained']:,}" for steps in how["steps"]) or words.NOTHING,
            ]
        )
    judged = f"Judged by {words.metric_name(info['metric'])}. " if info["metric"] else ""
    table.note = f"{judged}{info['rows']:,} test rows. In brackets: 95 % by bootstrap over them."
    if any(
        e["deviation"] is not None for row in report["models"].values() for e in row["scores"].get(task, {}).values()
    ):
        table.note += " Mean ± standard deviation over the seeds."
    return table


def differences(report: Report, task: str) -> Table:
    metric = report["tasks"][task]["metric"]
    digits = words.digits_of(metric)
    table = Table(
        f"{task}: pairs by {words.metric_name(metric)}", ["model", "<against", "difference", "95 % interval", "p"]
    )
    for pair in report["differences"]:
        if pair["task"] == task:
            shown = f"{pair['difference']:+,.{digits}f}"
            ends = words.interval(pair["interval"], digits)
            table.rows.append([pair["model"], pair["against"], shown, ends, words.p_value(pair["p_value"])])
    table.note = "Paired bootstrap over the same test rows; p is two-sided and not corrected for the number of pairs."
    return table


def speed(report: Report) -> Table:
    header = [
        "model",
        "<task",
        "<work a row",
        "<device",
        "batch",
        "ms a batch",
        "slowest",
        "rows/s",
        "tokens/s",
        "speed-up",
    ]
    table = Table("Speed", header)
    machines = set()
    for task in report["tasks"]:
        whole = report["models"][report["reference"]]["speed"].get(task, []) if report["reference"] else []
        for name, row in report["models"].items():
            for found in row["speed"].get(task, []):
                machines.add(found["machine"])
                same = next((other for other in whole if comparable(other, found)), None)
                faster = found["rows_per_second"] / same["rows_per_second"] if same else None
                table.rows.append(
                    [
                        name,
                        task,
                        f"{found['work']}, source {found['source_tokens']}",
                        f"{found['device']}, {found['dtype']}",
                        str(found["batch_size"]),
                        words.number(found["milliseconds"], 1),
                        words.number(found["slowest"], 1),
                        words.number(found["rows_per_second"], 1),
                        words.number(found["tokens_per_second"]),
                        words.times(faster),
                    ]
                )
    table.note = (
        f"Median after a warm-up, all rows padded to one length. Measured on {'; '.join(sorted(machines))}."
        if machines
        else ""
    )
    return table


def cost(report: Report) -> Table:
    """What every link of the chain cost."""
    header = ["artifact", "steps", "rows", "tokens", "time", "tokens/s", "processes", "FLOPs", "on disk"]
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
    table = Table("What each model cost", ["model", "<stages", "steps", "tokens", "time", "FLOPs", "cache on disk"])
    makers = {stage["artifact"]: stage for stage in report["stages"]}
    whole = report["models"][report["reference"]]["directory"] if report["reference"] else None
    for name, row in report["models"].items():
        own = (row["directory"] or "").removesuffix("/hf")
        stop = {(whole or "").removesuffix("/hf")} - {own}
        chain = [makers[key] for key in _chain(own, makers, stop)]
        if not chain:
            continue
        trained = [stage for stage in chain if stage["steps"] is not None]
        cached = [stage["bytes"] for stage in chain if stage["steps"] is None and stage["bytes"] is not None]
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
        found += [other for other in _chain(makers[key]["inputs"].get(role, ""), makers, stop) if other not in found]
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
                (stage["recipe"] or words.NOTHING)[:10],
                (stage["fingerprint"] or words.NOTHING)[:10],
            ]
        )
    table.note = "Recipe: sha256 of the resolved recipe beside the artifact. Fingerprint: of what decides its content."
    return table


def all_tables(report: Report) -> list[Table]:
    """In the order of the report; those without rows left out."""
    tables = [overview(report)]
    for task in report["tasks"]:
        tables += [scores(report, task), differences(report, task)]
    return [table for table in [*tables, speed(report), totals(report), cost(report), lineage(report)] if table.rows]


def retention(report: Report, model: str, task: str) -> str:
    if model == report["reference"] and task in report["models"][model]["scores"]:
        return "100 %"
    found = report["models"][model]["retention"].get(task)
    return words.percent(found["share"] if found else None)


def single_row(row: ModelRow, task: str) -> Measurement | None:
    """The measurement at batch 1 on the model's own device."""
    return next((found for found in row["speed"].get(task, []) if found["batch_size"] == 1), None)


def comparable(one: Measurement, other: Measurement) -> bool:
    """Whether two measurements differ in the model alone."""
    keys = ("work", "device", "machine", "dtype", "batch_size", "session")
    return all(_of(one, key) == _of(other, key) for key in keys)


def _of(found: Measurement, key: str) -> object:
    values: Mapping[str, object] = found
    return values[key]


def _estimate(row: ModelRow, task: str, metric: str) -> str:
    found = row["scores"].get(task, {}).get(metric)
    if found is None:
        return words.NOTHING
    digits = words.digits_of(metric)
    spread = "" if found["deviation"] is None else f" ± {found['deviation']:.{digits}f}"
    return f"{found['mean']:,.{digits}f}{spread} {words.interval(found['interval'], digits)}".rstrip()


def _overview_note(report: Report) -> str:
    against = f"Retention and compression refer to {report['reference']}. " if report["reference"] else ""
    return (
        f"{against}In brackets: of the parameters those in embeddings, of the scores 95 % by bootstrap over the test rows. "
        "LM loss: nats a target token of held-out text. ms/row: one row alone."
    )
