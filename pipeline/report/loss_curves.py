"""Loss curves, read from metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.report.document import Curve, Points
from pipeline.report.run_files import read_log

#: The quantity that fine-tuning minimises on the validation rows: best possible score - score.
#: It is left out, because the score itself is shown.
_ERROR = "validation/error"
#: Most points of a line on the page. Each is a value of the log; none is an average.
POINTS = 240


def read_curve(root: Path, artifact: str) -> Curve | None:
    """Return the losses of one artifact; None when it has logged none yet."""
    log = read_log(root)
    names = {name for entry in log for name in entry}
    if "loss/loss" not in names:
        return None
    train = "loss/lm" if "loss/lm" in names else "loss/loss"
    validation = "validation/lm_loss" if "validation/lm_loss" in names else "validation/loss"
    parts = _others(names, "loss/", ("loss/loss", train))
    scores = _others(names, "validation/", (validation, _ERROR))
    return Curve(
        artifact=artifact,
        label="LM loss" if train == "loss/lm" else "loss",
        train=_points(log, train),
        validation=_points(log, validation),
        parts={name.removeprefix("loss/"): _points(log, name) for name in parts},
        scores={name.removeprefix("validation/"): _points(log, name) for name in scores},
    )


def _others(names: set[str], prefix: str, known: tuple[str, ...]) -> list[str]:
    return sorted(name for name in names if name.startswith(prefix) and name not in known)


def _points(log: Sequence[dict[str, Any]], name: str) -> Points:
    points = [
        [entry["step"], entry[name]]
        for entry in log
        if name in entry and math.isfinite(entry[name])
    ]
    stride = -(-len(points) // POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]
