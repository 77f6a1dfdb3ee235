"""The report's charts: retention, quality against size and speed, loss curves. Each is a list of small panels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.downstream.speed import Measurement
from pipeline.report import words
from pipeline.report.axis import Axis, linear_axis, size_axis
from pipeline.report.bars import Bar, bars
from pipeline.report.document import Curve, ModelRow, Report
from pipeline.report.markup import Markup
from pipeline.report.panel import Panel


def series_of(report: Report) -> dict[str, int]:
    """Model → its colour and marker, the same in every chart: the reference first, then the models, then the baselines."""
    names = sorted(report["models"], key=lambda name: (name != report["reference"], report["models"][name]["baseline"]))
    return {name: index for index, name in enumerate(names)}


def retention(report: Report) -> list[Markup]:
    """A panel a task: each model's score ÷ the reference's."""
    series, panels = series_of(report), []
    for task, info in report["tasks"].items():
        entries = [
            Bar(name, series[name], found["share"], found["interval"])
            for name, row in report["models"].items()
            if not row["baseline"] and (found := row["retention"].get(task)) is not None
        ]
        if entries:
            metric = words.metric_name(info["metric"])
            label = f"% of {words.short(report['reference'] or '')}’s {metric}"
            said = ", ".join(f"{entry.name} {words.percent(entry.share)}" for entry in entries)
            panels.append(bars(f"{words.short(task)}: retention", said, label, entries))
    return panels


class Against(NamedTuple):
    """A property to set quality against."""

    title: str
    label: str
    value: Callable[[ModelRow, str], float | None]


def quality_against(report: Report, task: str) -> list[Markup]:
    """Panels of the task's own metric against parameters, and against every speed that was measured."""
    devices = dict.fromkeys(
        found["device"] for row in report["models"].values() for found in row["speed"].get(task, [])
    )
    against = [Against("parameters", "parameters", lambda row, _: row["size"] and row["size"]["parameters"])]
    for device in devices:
        name = {"cpu": "CPU", "cuda": "GPU"}.get(device, device)
        batches = sorted({found["batch_size"] for found in _measured(report, task, device)})
        for batch in batches:
            if batch == 1:
                label, field = f"ms a row, batch 1, {name}", "milliseconds"
                against.append(Against(f"latency on the {name}", label, _speed(device, batch, field)))
            else:
                label, field = f"rows/s, batch {batch}, {name}", "rows_per_second"
                against.append(Against(f"throughput on the {name}", label, _speed(device, batch, field)))
    return [panel for each in against if (panel := _scatter(report, task, each)) is not None]


def _scatter(report: Report, task: str, against: Against) -> Markup | None:
    info, series = report["tasks"][task], series_of(report)
    scores = {
        name: row["scores"][task][info["metric"]] for name, row in report["models"].items() if task in row["scores"]
    }
    places = {name: x for name in scores if (x := against.value(report["models"][name], task)) is not None}
    if not places:
        return None
    ends = [end for name in places for end in (scores[name]["mean"], *(scores[name]["interval"] or ()))]
    metric, digits = words.metric_name(info["metric"]), words.digits_of(info["metric"])
    said = "; ".join(f"{name}: {words.scaled(x)}, {scores[name]['mean']:.{digits}f}" for name, x in places.items())
    panel = Panel(
        f"{words.short(task)}: {metric} and {against.title}",
        said,
        size_axis(against.label, places.values()),
        linear_axis(metric, ends),
    )
    for name, x in places.items():
        if (ends_of := scores[name]["interval"]) is not None:
            panel.interval(x, ends_of[0], ends_of[1], series[name])
    for name, x in places.items():
        score = scores[name]
        shown = f"{score['mean']:.{digits}f} {words.interval(score['interval'], digits)}"
        hover = f"{name}: {metric} {shown} at {words.scaled(x)} {against.label}"
        panel.marker(x, score["mean"], series[name], hover)
    for name, x in places.items():
        panel.label(x, scores[name]["mean"], words.short(name, 16))
    for name, score in scores.items():
        if report["models"][name]["baseline"]:
            panel.level(score["mean"], words.short(name, 16), f"{name}: {metric} {score['mean']:.{digits}f}")
    return panel.svg()


def curve_groups(report: Report) -> list[tuple[str, list[Markup]]]:
    """Panels of the loss by step, by group: pretraining and distillation first, then the tasks."""
    groups: dict[str, list[Curve]] = {}
    for curve in report["curves"]:
        parts = curve["artifact"].split("/")
        group = f"Fine-tuning on {parts[2]}" if parts[0] == "finetune" else "Pretraining and distillation"
        groups.setdefault(group, []).append(curve)
    return [(group, _curve_panels(report, curves)) for group, curves in groups.items()]


def _curve_panels(report: Report, curves: Sequence[Curve]) -> list[Markup]:
    """One panel a curve on common axes, with the others of the group behind it in grey."""
    values = [y for curve in curves for _, y in (*curve["train"], *curve["validation"])]
    steps = [x for curve in curves for x, _ in (*curve["train"], *curve["validation"])]
    x = linear_axis("optimiser steps", [0, *steps])
    return [_curve_panel(report, curve, [c for c in curves if c is not curve], x, values) for curve in curves]


def _curve_panel(report: Report, curve: Curve, others: Sequence[Curve], x: Axis, values: Sequence[float]) -> Markup:
    parts = curve["artifact"].split("/")
    fine_tuned = parts[0] == "finetune"
    title = parts[3] if fine_tuned else curve["artifact"]
    series = _series_of_artifact(report, curve["artifact"])
    last = {
        what: found[-1] for what, found in (("train", curve["train"]), ("validation", curve["validation"])) if found
    }
    said = ", ".join(f"{what} {y:.3f} after step {step:g}" for what, (step, y) in last.items())
    panel = Panel(words.short(title, 40), said, x, linear_axis(f"{curve['label']} (nats a target token)", values))
    for other in others:
        panel.line(_pairs(other["train"]), 0, "ghost")
    panel.line(_pairs(curve["train"]), series, "train", f"{title}, training: {said}")
    panel.line(_pairs(curve["validation"]), series, "validation", f"{title}, validation: {said}")
    for step, y in curve["validation"]:
        panel.marker(step, y, series, f"{title}: validation {curve['label']} {y:.4f} after step {step:g}", 4.5)
    return panel.svg()


def _series_of_artifact(report: Report, artifact: str) -> int:
    """That of the model the artifact made or fine-tuned; of what is no model of the comparison, one after the last."""
    series, parts = series_of(report), artifact.split("/")
    if parts[0] == "finetune":
        return series.get(parts[3], len(series))
    for name, row in report["models"].items():
        if row["directory"] == f"{artifact}/hf":
            return series[name]
    return len(series)


def _measured(report: Report, task: str, device: str) -> list[Measurement]:
    found = [measured for row in report["models"].values() for measured in row["speed"].get(task, [])]
    return [measured for measured in found if measured["device"] == device]


def _speed(device: str, batch: int, field: str) -> Callable[[ModelRow, str], float | None]:
    def value(row: ModelRow, task: str) -> float | None:
        for found in row["speed"].get(task, []):
            if found["device"] == device and found["batch_size"] == batch:
                return found["milliseconds"] if field == "milliseconds" else found["rows_per_second"]
        return None

    return value


def _pairs(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    return [(step, y) for step, y in points]
