"""Charts by optimiser step: losses, parts of objectives, validation scores."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report import readable
from pipeline.report.charts.axis import Axis, linear_axis, size_axis
from pipeline.report.charts.panel import Panel
from pipeline.report.charts.series import artifact_series, model_series, part_series
from pipeline.report.document import Curve, Points, Report
from pipeline.report.markup import Markup


def objective_parts(report: Report) -> list[Markup]:
    """Return a panel for each distillation whose objective has parts: every part, unweighted."""
    panels, series = [], part_series(report)
    for curve in report["curves"]:
        # The axis may be logarithmic, so only positive values can be shown.
        lines = {name: [p for p in points if p[1] > 0] for name, points in curve["parts"].items()}
        lines = {name: points for name, points in lines.items() if points}
        if not lines:
            continue
        values = [y for points in lines.values() for _, y in points]
        steps = [x for points in lines.values() for x, _ in points]
        last = ", ".join(f"{name} {points[-1][1]:.3g}" for name, points in lines.items())
        panel = Panel(
            readable.short(curve["artifact"], 40),
            f"After step {max(steps):g}: {last}",
            _step_axis(steps),
            size_axis("part of the objective", values),
        )
        for name, points in lines.items():
            ends = ", ".join(f"{y:.3g} at step {step:g}" for step, y in (points[0], points[-1]))
            panel.line(_pairs(points), series[name], "train", f"{name}: {ends}")
            panel.marker(points[-1][0], points[-1][1], series[name], f"{name}: {ends}", 4.5)
        panels.append(panel.svg())
    return panels


def pretraining(report: Report) -> list[Markup]:
    """Return a panel for each pretrained or distilled model: its loss, the others in grey."""
    curves = [curve for curve in report["curves"] if not curve["artifact"].startswith("finetune/")]
    values = [y for curve in curves for _, y in (*_settled(curve["train"]), *curve["validation"])]
    x = _step_axis([x for curve in curves for x, _ in (*curve["train"], *curve["validation"])])
    return [
        _one_pretraining(
            report, curve, [other for other in curves if other is not curve], x, values
        )
        for curve in curves
    ]


def fine_tuning(report: Report, task: str) -> list[Markup]:
    """Return up to two panels with all models: training loss by step, and validation score."""
    root, metric = f"finetune/{report['name']}/{task}/", report["tasks"][task]["metric"]
    curves = [curve for curve in report["curves"] if curve["artifact"].startswith(root)]
    loss = [(curve, curve["train"]) for curve in curves if curve["train"]]
    score = [(curve, curve["scores"][metric]) for curve in curves if curve["scores"].get(metric)]
    name, title = readable.metric_name(metric), readable.short(task)
    panels = []
    if loss:
        label = "nats a target token"
        panels.append(_overlay(report, f"{title}: training loss", label, loss, dots=False))
    if score:
        panels.append(_overlay(report, f"{title}: validation {name}", name, score, dots=True))
    return panels


def _one_pretraining(
    report: Report, curve: Curve, others: Sequence[Curve], x: Axis, values: Sequence[float]
) -> Markup:
    title, label = curve["artifact"], curve["label"]
    series = artifact_series(report, title)
    named = (("train", curve["train"]), ("validation", curve["validation"]))
    last = {name: points[-1] for name, points in named if points}
    said = ", ".join(f"{name} {y:.3f} after step {step:g}" for name, (step, y) in last.items())
    y_axis = linear_axis(f"{label} (nats a target token)", values)
    panel = Panel(readable.short(title, 44), said, x, y_axis)
    for other in others:
        panel.line(_pairs(other["train"]), 0, "ghost")
    panel.line(_pairs(curve["train"]), series, "train", f"{title}, training: {said}")
    panel.line(_pairs(curve["validation"]), series, "validation", f"{title}, validation: {said}")
    for step, y in curve["validation"]:
        hover = f"{title}: validation {label} {y:.4f} after step {step:g}"
        panel.marker(step, y, series, hover, 4.5)
    return panel.svg()


def _overlay(
    report: Report,
    title: str,
    label: str,
    lines: Sequence[tuple[Curve, Points]],
    *,
    dots: bool,
) -> Markup:
    """Return one panel with a line a model. dots: mark every value, not only the last."""
    named = [(curve["artifact"].split("/")[3], _pairs(points)) for curve, points in lines]
    last = {name: f"{points[-1][1]:.4g} after step {points[-1][0]:g}" for name, points in named}
    steps = [step for _, points in named for step, _ in points]
    values = [y for _, points in named for _, y in points]
    description = ", ".join(f"{name} {value}" for name, value in last.items())
    panel = Panel(title, description, _step_axis(steps), linear_axis(label, values))
    for name, points in named:
        series = model_series(report).get(name, 0)
        panel.line(points, series, "train", f"{name}: {last[name]}")
        for step, y in points if dots else points[-1:]:
            panel.marker(step, y, series, f"{name}: {y:.4g} after step {step:g}", 4.5)
    return panel.svg()


def _step_axis(steps: Sequence[float]) -> Axis:
    return linear_axis("optimiser steps", [0, *steps], integers=True)


def _settled(points: Points) -> Points:
    """Leave out the first tenth: its fall would leave the rest no room."""
    return points[-(-len(points) // 10) :] or points


def _pairs(points: Points) -> list[tuple[float, float]]:
    return [(step, y) for step, y in points]
