"""Tables of the models: at a glance, by task, in pairs, by speed.

Markdown, HTML and the terminal lay out the same tables.
"""

from __future__ import annotations

from pipeline.downstream.speed import Measurement
from pipeline.report import readable
from pipeline.report.document import ModelRow, Report
from pipeline.report.table import Table


def overview(report: Report) -> Table:
    """Return one row a model: size, score on each task's own metric, retention, speed."""
    timed = [
        task
        for task in report["tasks"]
        if any(task in row["speed"] for row in report["models"].values())
    ]
    header = ["model", "layers", "parameters [embeddings]", "compression", "LM loss"]
    for task, info in report["tasks"].items():
        header += [f"{task} {readable.metric_name(info['metric'])}", f"{task} retention"]
    header += [f"{task} ms/row" for task in timed]
    table = Table("Models at a glance", header)
    for name, row in report["models"].items():
        cells = [name, *_size_cells(row)]
        cells += [
            readable.times(row["compression"]),
            readable.number(row["validation_lm_loss"], 3),
        ]
        for task, info in report["tasks"].items():
            cells += [_estimate(row, task, info["metric"]), retention(report, name, task)]
        for task in timed:
            single = single_row(row, task)
            cells.append(readable.number(single["milliseconds"] if single else None, 1))
        table.rows.append(cells)
    table.note = _overview_note(report)
    return table


def scores(report: Report, task: str) -> Table:
    """Return every metric of one task, and how each model was trained."""
    info = report["tasks"][task]
    header = ["model", *(readable.metric_name(metric) for metric in info["metrics"])]
    header += ["retention", "<trained on", "seeds", "learning rate", "best step"]
    table = Table(task, header)
    for name, row in report["models"].items():
        if task not in row["scores"]:
            continue
        metrics = [_estimate(row, task, metric) for metric in info["metrics"]]
        retained = retention(report, name, task)
        table.rows.append([name, *metrics, retained, *_training_cells(row, task)])
    judged = f"Judged by {readable.metric_name(info['metric'])}. "
    table.note = f"{judged}{info['rows']:,} test rows. In brackets: 95% by bootstrap over them."
    rows = report["models"].values()
    estimates = [estimate for row in rows for estimate in row["scores"].get(task, {}).values()]
    if any(estimate["deviation"] is not None for estimate in estimates):
        table.note += " Mean ± standard deviation over the seeds."
    return table


def differences(report: Report, task: str) -> Table:
    """Return every pair of models on one task."""
    metric = report["tasks"][task]["metric"]
    digits = readable.digits_of(metric)
    table = Table(
        f"{task}: pairs by {readable.metric_name(metric)}",
        ["model", "<against", "difference", "95% interval", "p"],
    )
    for pair in report["differences"]:
        if pair["task"] == task:
            shown = f"{pair['difference']:+,.{digits}f}"
            ends = readable.interval(pair["interval"], digits)
            table.rows.append(
                [pair["model"], pair["against"], shown, ends, readable.p_value(pair["p_value"])]
            )
    table.note = (
        "Paired bootstrap over the same test rows; "
        "p is two-sided and not corrected for the number of pairs."
    )
    return table


def speed(report: Report) -> Table:
    """Return every measurement, and its speed-up over the reference's."""
    header = ["model", "<task", "<work a row", "source tokens", "<device", "batch"]
    table = Table("Speed", [*header, "ms a batch", "slowest", "rows/s", "tokens/s", "speed-up"])
    reference = report["models"][report["reference"]] if report["reference"] else None
    machines = set()
    for task in report["tasks"]:
        of_reference = reference["speed"].get(task, []) if reference else []
        for name, row in report["models"].items():
            for measured in row["speed"].get(task, []):
                machines.add(measured["machine"])
                same = next((m for m in of_reference if comparable(m, measured)), None)
                faster = measured["rows_per_second"] / same["rows_per_second"] if same else None
                cells = [name, task, *_speed_cells(measured), readable.times(faster)]
                table.rows.append(cells)
    if machines:
        table.note = (
            "Median after a warm-up, all rows padded to one length. "
            f"Measured on {'; '.join(sorted(machines))}."
        )
    return table


def retention(report: Report, model: str, task: str) -> str:
    """Return the cell that says what a model retains of the reference."""
    if model == report["reference"] and task in report["models"][model]["scores"]:
        return "100%"
    retained = report["models"][model]["retention"].get(task)
    return readable.percent(retained["share"] if retained else None)


def single_row(row: ModelRow, task: str) -> Measurement | None:
    """Return the measurement at batch 1 on the model's own device."""
    measured = row["speed"].get(task, [])
    return next((each for each in measured if each["batch_size"] == 1), None)


def comparable(one: Measurement, other: Measurement) -> bool:
    """Return whether two measurements differ only in the model."""
    return (
        one["work"] == other["work"]
        and one["device"] == other["device"]
        and one["machine"] == other["machine"]
        and one["dtype"] == other["dtype"]
        and one["batch_size"] == other["batch_size"]
        and one["session"] == other["session"]
    )


def _size_cells(row: ModelRow) -> list[str]:
    size = row["size"]
    if size is None:
        return [readable.NOTHING, readable.NOTHING]
    embedded = readable.parameters(size["embedding_parameters"])
    return [
        f"{size['encoder_layers']}+{size['decoder_layers']}",
        f"{readable.parameters(size['parameters'])} [{embedded}]",
    ]


def _training_cells(row: ModelRow, task: str) -> list[str]:
    training = row["training"][task]
    rate, teacher = training["learning_rate"], training["teacher"]
    steps = [f"{steps['best']:,} of {steps['trained']:,}" for steps in training["steps"]]
    return [
        f"{training['rows']:,} {training['data']}" + (f" from {teacher}" if teacher else ""),
        readable.NOTHING if row["baseline"] else str(len(training["seeds"])),
        readable.NOTHING if rate is None else f"{rate:g}",
        ", ".join(steps) or readable.NOTHING,
    ]


def _speed_cells(measured: Measurement) -> list[str]:
    return [
        measured["work"],
        str(measured["source_tokens"]),
        f"{measured['device']}, {measured['dtype']}",
        str(measured["batch_size"]),
        readable.number(measured["milliseconds"], 1),
        readable.number(measured["slowest"], 1),
        readable.number(measured["rows_per_second"], 1),
        readable.number(measured["tokens_per_second"]),
    ]


def _estimate(row: ModelRow, task: str, metric: str) -> str:
    estimate = row["scores"].get(task, {}).get(metric)
    if estimate is None:
        return readable.NOTHING
    digits, deviation = readable.digits_of(metric), estimate["deviation"]
    spread = "" if deviation is None else f" ± {deviation:.{digits}f}"
    interval = readable.interval(estimate["interval"], digits)
    return f"{estimate['mean']:,.{digits}f}{spread} {interval}".rstrip()


def _overview_note(report: Report) -> str:
    reference = report["reference"]
    refers = f"Retention and compression refer to {reference}. " if reference else ""
    return (
        f"{refers}In brackets behind scores: 95% by bootstrap over the test rows. "
        "LM loss: nats a target token of held-out text. ms/row: one row alone."
    )
