"""Charts of quality: what each model retains, and scores against size and speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from pipeline.report import readable
from pipeline.report.charts.axis import linear_axis, size_axis
from pipeline.report.charts.bars import Bar, bars
from pipeline.report.charts.panel import Panel
from pipeline.report.charts.series import model_series
from pipeline.report.document import Estimate, ModelRow, Report
from pipeline.report.markup import Markup


def retention(report: Report) -> list[Markup]:
    """Return a panel a task: each model's score ÷ the reference's."""
    series, panels = model_series(report), []
    for task, info in report["tasks"].items():
        entries = [
            Bar(name, series[name], retained["share"], retained["interval"])
            for name, row in report["models"].items()
            if not row["baseline"] and (retained := row["retention"].get(task)) is not None
        ]
        if entries:
            metric = readable.metric_name(info["metric"])
            label = f"% of {readable.short(report['reference'] or '')}’s {metric}"
            shares = [f"{entry.name} {readable.percent(entry.share)}" for entry in entries]
            title = f"{readable.short(task)}: retention"
            panels.append(bars(title, ", ".join(shares), label, entries))
    return panels


class ChartProperty(NamedTuple):
    """A property of models that a panel sets quality against."""

    title: str
    #: Of the x axis, with the unit.
    label: str
    #: (model, task) → the value; None where it was not measured.
    value: Callable[[ModelRow, str], float | None]


def quality_against(report: Report, task: str) -> list[Markup]:
    """Return panels of the task's own metric against parameters and each measured speed."""
    panels = [_scatter(report, task, each) for each in _properties(report, task)]
    return [panel for panel in panels if panel is not None]


def _properties(report: Report, task: str) -> list[ChartProperty]:
    measured = [
        measurement
        for row in report["models"].values()
        for measurement in row["speed"].get(task, [])
    ]
    properties = [
        ChartProperty(
            "parameters", "parameters", lambda row, _: row["size"] and row["size"]["parameters"]
        )
    ]
    for device in dict.fromkeys(measurement["device"] for measurement in measured):
        name = {"cpu": "CPU", "cuda": "GPU"}.get(device, device)
        for batch in sorted({m["batch_size"] for m in measured if m["device"] == device}):
            if batch == 1:
                title, label = f"latency on the {name}", f"ms a row, batch 1, {name}"
                value = _speed(device, batch, "milliseconds")
            else:
                title, label = f"throughput on the {name}", f"rows/s, batch {batch}, {name}"
                value = _speed(device, batch, "rows_per_second")
            properties.append(ChartProperty(title, label, value))
    return properties


def _speed(
    device: str, batch: int, field: Literal["milliseconds", "rows_per_second"]
) -> Callable[[ModelRow, str], float | None]:
    def value(row: ModelRow, task: str) -> float | None:
        for measurement in row["speed"].get(task, []):
            if measurement["device"] == device and measurement["batch_size"] == batch:
                return measurement[field]
        return None

    return value


def _scatter(report: Report, task: str, against: ChartProperty) -> Markup | None:
    metric = report["tasks"][task]["metric"]
    name_of_metric, digits = readable.metric_name(metric), readable.digits_of(metric)
    rows = {name: row for name, row in report["models"].items() if task in row["scores"]}
    scores = {name: row["scores"][task][metric] for name, row in rows.items()}
    values = {name: x for name, row in rows.items() if (x := against.value(row, task)) is not None}
    if not values:
        return None
    description = "; ".join(
        f"{name}: {readable.scaled(x)}, {scores[name]['mean']:.{digits}f}"
        for name, x in values.items()
    )
    panel = Panel(
        f"{readable.short(task)}: {name_of_metric} and {against.title}",
        description,
        size_axis(against.label, values.values()),
        linear_axis(name_of_metric, _ends([scores[name] for name in values])),
    )
    series = model_series(report)
    shifts = dict(zip(values, panel.side_by_side(list(values.values())), strict=True))
    for name, x in values.items():
        if (interval := scores[name]["interval"]) is not None:
            panel.interval(x, interval[0], interval[1], series[name], shifts[name])
    for name, x in values.items():
        score = scores[name]
        shown = f"{score['mean']:.{digits}f} {readable.interval(score['interval'], digits)}"
        hover = f"{name}: {name_of_metric} {shown} at {readable.scaled(x)} {against.label}"
        panel.marker(x, score["mean"], series[name], hover, shift=shifts[name])
    for name, x in values.items():
        panel.label(x, scores[name]["mean"], readable.short(name, 16), shifts[name])
    for name, score in scores.items():
        if rows[name]["baseline"]:
            hover = f"{name}: {name_of_metric} {score['mean']:.{digits}f}"
            panel.level(score["mean"], readable.short(name, 16), hover)
    return panel.svg()


def _ends(scores: list[Estimate]) -> list[float]:
    """Return all that a y axis must cover: means and the ends of their intervals."""
    return [end for score in scores for end in (score["mean"], *(score["interval"] or ()))]
