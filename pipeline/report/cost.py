"""Costs of the links of a run: floating-point operations and time at work."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import PipelineError


class TrainingCost(NamedTuple):
    """Cost of the logged steps; None where the log does not say."""

    seconds: float | None
    #: Of one device.
    flops: float | None


def training_cost(log: Sequence[dict[str, Any]], tokens_per_step: int) -> TrainingCost:
    """Return time and operations at the logged pace.

    Start-up, validation, saving and pauses are not part of that pace, so they do not count.
    """
    seconds, flops, previous_step = 0.0, 0.0, 0
    for entry in log:
        rate = entry.get("speed/tokens_per_second")
        if not rate:
            continue
        interval = (entry["step"] - previous_step) * tokens_per_step / rate
        previous_step = entry["step"]
        seconds += interval
        flops += interval * 1e12 * entry.get("speed/tflops_per_device", 0.0)
    return TrainingCost(seconds or None, flops or None)


def forward_cost(model: Path, sources: int, targets: int, *, logits: bool) -> float | None:
    """Return the operations of one forward pass of the model in a directory.

    None when its configuration is absent or not known.
    sources, targets: tokens of an example. logits: whether the LM head runs.
    """
    from transformers import AutoConfig

    from pipeline.models.architecture import Architecture

    if not (model / "config.json").is_file():
        return None
    try:
        architecture = Architecture.of(AutoConfig.from_pretrained(model))
        return architecture.forward_flops(sources, targets, logits=logits).total
    except (PipelineError, OSError, ValueError, KeyError):
        return None


def writing_time(files: Sequence[Path], finished: str | None) -> float | None:
    """Return the seconds that writing the shards took, from their modification times.

    A pause of more than five usual gaps counts as one usual gap.
    finished: when the artifact was finished, as its manifest says.
    None when the files are younger than that: a copy has times of its own.
    """
    times = sorted(file.stat().st_mtime for file in files)
    if finished is not None and times:
        end = datetime.fromisoformat(finished.replace("Z", "+00:00")).timestamp()
        if times[-1] > end + 60:
            return None
    gaps = [after - before for before, after in itertools.pairwise(times)]
    if not gaps:
        return None
    usual = statistics.median(gaps)
    return sum(gap if gap <= 5 * usual else usual for gap in gaps) + usual
