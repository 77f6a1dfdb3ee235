"""Series: the number that gives a model or a part its colour and marker, in every chart."""

from __future__ import annotations

from pipeline.report.document import Report


def model_series(report: Report) -> dict[str, int]:
    """Return {model: series}: the reference first, then the other models, then the baselines."""
    names = sorted(
        report["models"],
        key=lambda name: (name != report["reference"], report["models"][name]["baseline"]),
    )
    return {name: index for index, name in enumerate(names)}


def part_series(report: Report) -> dict[str, int]:
    """Return {part of an objective: series}."""
    names = sorted({name for curve in report["curves"] for name in curve["parts"]})
    return {name: index for index, name in enumerate(names, 1)}


def artifact_series(report: Report, artifact: str) -> int:
    """Return the series of the model that an artifact made, else the number after the last."""
    series, directory = model_series(report), f"{artifact}/hf"
    for name, row in report["models"].items():
        if row["directory"] == directory:
            return series[name]
    return len(series)
