"""The training settings that decide a result. No heavy imports.

Each field says whether it counts (pipeline/recipe). The machine adds the dtype, and DeepSpeed's
JSON adds the optimizer.
"""

from __future__ import annotations

from typing import Any

from pipeline.hardware import resolve_dtype
from pipeline.recipe import Optimisation
from pipeline.training.configuration import read_deepspeed_json


def optimisation_payload(settings: Optimisation) -> dict[str, Any]:
    """Return the settings, the dtype and the optimizer that decide a result, as JSON values."""
    return settings.identity() | {
        "dtype": resolve_dtype(settings.dtype),
        "optimizer": read_deepspeed_json(settings.deepspeed).get("optimizer"),
    }
