"""What of the training settings decides a result. No heavy imports.

A setting says at its field whether it counts (pipeline/recipe). The machine adds the dtype, and
DeepSpeed's JSON the optimizer.
"""

from __future__ import annotations

from typing import Any

from pipeline.hardware import resolve_dtype
from pipeline.recipe import Optimisation
from pipeline.training.configuration import read_deepspeed_json


def optimisation_payload(settings: Optimisation) -> dict[str, Any]:
    """Return what of training settings decides content, with what the machine and DeepSpeed add."""
    return settings.identity() | {
        "dtype": resolve_dtype(settings.dtype),
        "optimizer": read_deepspeed_json(settings.deepspeed).get("optimizer"),
    }
