"""What of the training settings decides a result. No heavy imports."""

from __future__ import annotations

from typing import Any

from pipeline.hardware import resolve_dtype
from pipeline.recipe import FineTune, Optimisation
from pipeline.training.configuration import read_deepspeed_json

#: Settings of training that steer how a run is watched and kept, not what comes out of it.
IDLE = {"name", "log_every", "profile", "peak_tflops", "spike_factor", "samples", "validate_every", "save_every", "save_minutes",
        "keep_checkpoints", "keep_every", "keep_best", "max_skipped_steps", "micro_batch_size",
        "activation_checkpointing", "compile", "deepspeed"}  # fmt: skip

#: Settings of fine-tuning that say which units there are, or that a unit's identity holds elsewhere.
_COMPARED = {
    "models",
    "tasks",
    "seeds",
    "learning_rates",
    "baselines",
    "data",
    "teacher",
    "shard_rows",
}


def optimisation_payload(settings: Optimisation) -> dict[str, Any]:
    exclude = IDLE | (_COMPARED if isinstance(settings, FineTune) else {"original"})
    chooses = {"patience", "min_delta", "export"}
    if settings.patience is None:
        exclude |= {"patience", "min_delta"}
    if settings.export == "last":
        exclude |= {"export"}
    if (
        not settings.scale_parameter
    ):  # so that results from before the key existed stay what they are
        exclude |= {"scale_parameter"}
    if not chooses <= exclude:  # then what comes out depends on when it was looked at
        exclude -= {"validate_every"}
    kept = settings.model_dump(mode="json", exclude=exclude)
    return kept | {
        "dtype": resolve_dtype(settings.dtype),
        "optimizer": read_deepspeed_json(settings.deepspeed).get("optimizer"),
    }
