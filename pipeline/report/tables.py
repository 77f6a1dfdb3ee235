"""Tables over the models: at a glance, by task, in pairs, by speed. Markdown, HTML and the terminal lay out the same ones."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.downstream.timing import Measurement
from pipeline.report import words
from pipeline.report.document import ModelRow, Report
from pipeline.report.table import Table


def overview(report: Report) -> Table:
    """One row a model: size, quality on every task's own metric with its interval, retention, speed."""
    timed = [
        task
        for task in report["tasks"]
        if any(task in row["speed"] for row in report["models"].values())
    ]
    header = ["model", "layers", "parameters [embeddings]", "compression", "LM loss"]
    for task, info in report["tasks"].items():
        header += [f"{task} {words.metric_name(info['metric'])}", f"{task} retention"]
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
                f"{how['rows']:,} {how['data']}"
                + (f" from {how['teacher']}" if how["teacher"] else ""),
                words.NOTHING if row["baseline"] else str(len(how["seeds"])),
                words.NOTHING if how["learning_rate"] is None else f"{how['learning_rate']:g}",
                ", ".join(f"{steps['best']:,} of {steps['trained']:,}" for steps in how["steps"])
                or words.NOTHING,
            ]
        )
    judged = f"Judged by {words.metric_name(info['metric'])}. "
    table.note = f"{judged}{info['rows']:,} test rows. In brackets: 95% by bootstrap over them."
    if any(
        e["deviation"] is not None
        for row in report["models"].values()
        for e in row["scores"].get(task, {}).values()
    ):
        table.note += " Mean ± standard deviation over the seeds."
    return table


def differences(report: Report, task: str) -> Table:
    metric = report["tasks"][task]["metric"]
    digits = words.digits_of(metric)
    table = Table(
        f"{task}: pairs by {words.metric_name(metric)}",
        ["model", "<against", "difference", "95% interval", "p"],
    )
    for pair in report["differences"]:
        if pair["task"] == task:
            shown = f"{pair['difference']:+,.{digits}f}"
            ends = words.interval(pair["interval"], digits)
            table.rows.append(
                [pair["model"], pair["against"], shown, ends, words.p_value(pair["p_value"])]
            )
    table.note = "Paired bootstrap over the same test rows; p is two-sided and not corrected for the number of pairs."
    return table


def speed(report: Report) -> Table:
    header = [
        "model",
        "<task",
        "<work a row",
        "source tokens",
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
        whole = (
            report["models"][report["reference"]]["speed"].get(task, [])
            if report["reference"]
            else []
        )
        for name, row in report["models"].items():
            for found in row["speed"].get(task, []):
                machines.add(found["machine"])
                same = next((other for other in whole if comparable(other, found)), None)
                faster = found["rows_per_second"] / same["rows_per_second"] if same else None
                table.rows.append(
                    [
                        name,
                        task,
                        found["work"],
                        str(found["source_tokens"]),
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


def retention(report: Report, model: str, task: str) -> str:
    if model == report["reference"] and task in report["models"][model]["scores"]:
        return "100%"
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
    return (
        f"{found['mean']:,.{digits}f}{spread} {words.interval(found['interval'], digits)}".rstrip()
    )


def _overview_note(report: Report) -> str:
    against = (
        f"Retention and compression refer to {report['reference']}. " if report["reference"] else ""
    )
    return (
        f"{against}In brackets behind scores: 95% by bootstrap over the test rows. "
        "LM loss: nats a target token of held-out text. ms/row: one row alone."
    )
