"""Loss curves out of metrics.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.report.document import Curve

#: What fine-tuning minimises on the validation rows: the best possible score less the score, which is shown itself.
_ERROR = "validation/error"
#: Points of a line that a page draws; every one is a value of the log, none is an average.
POINTS = 240


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, in order; none when it is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # being written, or cut short by a kill
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append(value)
    return found


class Work(NamedTuple):
    """What the steps of a log took; None where the log does not say."""

    seconds: float | None
    #: Of one device.
    flops: float | None


def work_of(lines: Sequence[dict[str, Any]], tokens_a_step: int) -> Work:
    """Time and operations at the logged pace, which leaves start-up, validation, saving and pauses out."""
    seconds, flops, before = 0.0, 0.0, 0
    for line in lines:
        rate = line.get("speed/tokens_per_second")
        if not rate:
            continue
        steps, before = line["step"] - before, line["step"]
        took = steps * tokens_a_step / rate
        seconds, flops = (
            seconds + took,
            flops + took * 1e12 * line.get("speed/tflops_per_device", 0.0),
        )
    return Work(seconds or None, flops or None)


def read_curve(root: Path, artifact: str) -> Curve | None:
    """The losses of one artifact; None when it has logged none yet."""
    lines = read_lines(root / "metrics.jsonl")
    names = {name for line in lines for name in line}
    if "loss/loss" not in names:
        return None
    train = "loss/lm" if "loss/lm" in names else "loss/loss"
    checked = "validation/lm_loss" if "validation/lm_loss" in names else "validation/loss"
    scores = sorted(
        name for name in names if name.startswith("validation/") and name not in (checked, _ERROR)
    )
    parts = sorted(
        name for name in names if name.startswith("loss/") and name not in ("loss/loss", train)
    )
    return Curve(
        artifact=artifact,
        label="LM loss" if train == "loss/lm" else "loss",
        train=_points(lines, train),
        validation=_points(lines, checked),
        parts={name.removeprefix("loss/"): _points(lines, name) for name in parts},
        scores={name.removeprefix("validation/"): _points(lines, name) for name in scores},
    )


def _points(lines: Sequence[dict[str, Any]], name: str) -> list[list[float]]:
    found = [
        [line["step"], line[name]] for line in lines if name in line and math.isfinite(line[name])
    ]
    stride = -(-len(found) // POINTS)
    return found if stride <= 1 else [*found[:-1:stride], found[-1]]
