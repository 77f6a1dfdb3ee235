"""The report's charts: retention, quality against size and speed, loss curves. Each is a list of small panels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.downstream.timing import Measurement
from pipeline.report import words
from pipeline.report.axis import Axis, linear_axis, size_axis
from pipeline.report.bars import Bar, bars
from pipeline.report.document import Curve, ModelRow, Report
from pipeline.report.markup import Markup
from pipeline.report.panel import Panel


def series_of(report: Report) -> dict[str, int]:
    """Model → its colour and marker, the same in every chart: the reference first, then the models, then the baselines."""
    names = sorted(
        report["models"],
        key=lambda name: (name != report["reference"], report["models"][name]["baseline"]),
    )
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
    against = [
        Against(
            "parameters", "parameters", lambda row, _: row["size"] and row["size"]["parameters"]
        )
    ]
    for device in devices:
        name = {"cpu": "CPU", "cuda": "GPU"}.get(device, device)
        batches = sorted({found["batch_size"] for found in _measured(report, task, device)})
        for batch in batches:
            if batch == 1:
                label, field = f"ms a row, batch 1, {name}", "milliseconds"
                against.append(
                    Against(f"latency on the {name}", label, _speed(device, batch, field))
                )
            else:
                label, field = f"rows/s, batch {batch}, {name}", "rows_per_second"
                against.append(
                    Against(f"throughput on the {name}", label, _speed(device, batch, field))
                )
    return [panel for each in against if (panel := _scatter(report, task, each)) is not None]


def _scatter(report: Report, task: str, against: Against) -> Markup | None:
    info, series = report["tasks"][task], series_of(report)
    scores = {
        name: row["scores"][task][info["metric"]]
        for name, row in report["models"].items()
        if task in row["scores"]
    }
    places = {
        name: x for name in scores if (x := against.value(report["models"][name], task)) is not None
    }
    if not places:
        return None
    ends = [
        end for name in places for end in (scores[name]["mean"], *(scores[name]["interval"] or ()))
    ]
    metric, digits = words.metric_name(info["metric"]), words.digits_of(info["metric"])
    said = "; ".join(
        f"{name}: {words.scaled(x)}, {scores[name]['mean']:.{digits}f}"
        for name, x in places.items()
    )
    panel = Panel(
        f"{words.short(task)}: {metric} and {against.title}",
        said,
        size_axis(against.label, places.values()),
        linear_axis(metric, ends),
    )
    shifts = dict(zip(places, panel.side_by_side(list(places.values())), strict=True))
    for name, x in places.items():
        if (ends_of := scores[name]["interval"]) is not None:
            panel.interval(x, ends_of[0], ends_of[1], series[name], shifts[name])
    for name, x in places.items():
        score = scores[name]
        shown = f"{score['mean']:.{digits}f} {words.interval(score['interval'], digits)}"
        hover = f"{name}: {metric} {shown} at {words.scaled(x)} {against.label}"
        panel.marker(x, score["mean"], series[name], hover, shift=shifts[name])
    for name, x in places.items():
        panel.label(x, scores[name]["mean"], words.short(name, 16), shifts[name])
    for name, score in scores.items():
        if report["models"][name]["baseline"]:
            panel.level(
                score["mean"], words.short(name, 16), f"{name}: {metric} {score['mean']:.{digits}f}"
            )
    return panel.svg()


def parts_of(report: Report) -> dict[str, int]:
    """Part of an objective → its colour and marker."""
    names = sorted({name for curve in report["curves"] for name in curve["parts"]})
    return {name: index for index, name in enumerate(names, 1)}


def objective_parts(report: Report) -> list[Markup]:
    """A panel for each distillation whose objective has parts: every part, unweighted."""
    panels, series = [], parts_of(report)
    for curve in report["curves"]:
        lines = {
            name: [(x, y) for x, y in points if y > 0] for name, points in curve["parts"].items()
        }
        lines = {name: points for name, points in lines.items() if points}
        if not lines:
            continue
        values = [y for points in lines.values() for _, y in points]
        steps = [x for points in lines.values() for x, _ in points]
        said = ", ".join(f"{name} {points[-1][1]:.3g}" for name, points in lines.items())
        panel = Panel(
            words.short(curve["artifact"], 40),
            f"After step {max(steps):g}: {said}",
            linear_axis("optimiser steps", [0, *steps], whole=True),
            size_axis("part of the objective", values),
        )
        for name, points in lines.items():
            hover = f"{name}: {points[0][1]:.3g} at step {points[0][0]:g}, {points[-1][1]:.3g} at step {points[-1][0]:g}"
            panel.line(points, series[name], "train", hover)
            panel.marker(*points[-1], series[name], hover, 4.5)
        panels.append(panel.svg())
    return panels


def pretraining(report: Report) -> list[Markup]:
    """A panel for each model that was pretrained or distilled: its loss by step, with the others behind it in grey."""
    curves = [curve for curve in report["curves"] if not curve["artifact"].startswith("finetune/")]
    values = [y for curve in curves for _, y in (*_settled(curve["train"]), *curve["validation"])]
    steps = [x for curve in curves for x, _ in (*curve["train"], *curve["validation"])]
    x = linear_axis("optimiser steps", [0, *steps], whole=True)
    return [
        _pretraining(report, curve, [c for c in curves if c is not curve], x, values)
        for curve in curves
    ]


def _settled(points: Sequence[list[float]]) -> Sequence[list[float]]:
    """Without the first tenth, whose fall would leave the rest no room."""
    return points[-(-len(points) // 10) :] or points


def fine_tuning(report: Report, task: str) -> list[Markup]:
    """Two panels: the training loss of all models by step, and their validation score."""
    curves = [
        curve
        for curve in report["curves"]
        if curve["artifact"].startswith(f"finetune/{report['name']}/{task}/")
    ]
    metric = report["tasks"][task]["metric"]
    loss = [(curve, curve["train"]) for curve in curves if curve["train"]]
    score = [(curve, curve["scores"][metric]) for curve in curves if curve["scores"].get(metric)]
    name = words.metric_name(metric)
    found = (
        [
            _overlay(
                report,
                f"{words.short(task)}: training loss",
                "nats a target token",
                loss,
                dots=False,
            )
        ]
        if loss
        else []
    )
    return found + (
        [_overlay(report, f"{words.short(task)}: validation {name}", name, score, dots=True)]
        if score
        else []
    )


def _overlay(
    report: Report,
    title: str,
    label: str,
    lines: Sequence[tuple[Curve, list[list[float]]]],
    *,
    dots: bool,
) -> Markup:
    """dots: mark every value, not the last one alone."""
    named = [(curve["artifact"].split("/")[3], _pairs(points)) for curve, points in lines]
    said = ", ".join(
        f"{name} {points[-1][1]:.4g} after step {points[-1][0]:g}" for name, points in named
    )
    steps, values = ([pair[which] for _, points in named for pair in points] for which in (0, 1))
    panel = Panel(
        title,
        said,
        linear_axis("optimiser steps", [0, *steps], whole=True),
        linear_axis(label, values),
    )
    for name, points in named:
        series = series_of(report).get(name, 0)
        panel.line(
            points, series, "train", f"{name}: {points[-1][1]:.4g} after step {points[-1][0]:g}"
        )
        for step, y in points if dots else points[-1:]:
            panel.marker(step, y, series, f"{name}: {y:.4g} after step {step:g}", 4.5)
    return panel.svg()


def _pretraining(
    report: Report, curve: Curve, others: Sequence[Curve], x: Axis, values: Sequence[float]
) -> Markup:
    title, label = curve["artifact"], curve["label"]
    series = _series_of_artifact(report, title)
    last = {
        what: found[-1]
        for what, found in (("train", curve["train"]), ("validation", curve["validation"]))
        if found
    }
    said = ", ".join(f"{what} {y:.3f} after step {step:g}" for what, (step, y) in last.items())
    panel = Panel(
        words.short(title, 44), said, x, linear_axis(f"{label} (nats a target token)", values)
    )
    for other in others:
        panel.line(_pairs(other["train"]), 0, "ghost")
    panel.line(_pairs(curve["train"]), series, "train", f"{title}, training: {said}")
    panel.line(_pairs(curve["validation"]), series, "validation", f"{title}, validation: {said}")
    for step, y in curve["validation"]:
        panel.marker(
            step, y, series, f"{title}: validation {label} {y:.4f} after step {step:g}", 4.5
        )
    return panel.svg()


def _series_of_artifact(report: Report, artifact: str) -> int:
    """That of the model the artifact made; of what is no model of the comparison, one after the last."""
    series = series_of(report)
    made = [name for name, row in report["models"].items() if row["directory"] == f"{artifact}/hf"]
    return series[made[0]] if made else len(series)


def _measured(report: Report, task: str, device: str) -> list[Measurement]:
    found = [
        measured for row in report["models"].values() for measured in row["speed"].get(task, [])
    ]
    return [measured for measured in found if measured["device"] == device]


def _speed(device: str, batch: int, field: str) -> Callable[[ModelRow, str], float | None]:
    def value(row: ModelRow, task: str) -> float | None:
        for found in row["speed"].get(task, []):
            if found["device"] == device and found["batch_size"] == batch:
                return (
                    found["milliseconds"] if field == "milliseconds" else found["rows_per_second"]
                )
        return None

    return value


def _pairs(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    return [(step, y) for step, y in points]
