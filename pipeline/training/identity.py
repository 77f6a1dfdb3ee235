"""The training settings that decide a result. No heavy imports."""

from __future__ import annotations

from typing import Any

from pipeline.hardware import resolve_dtype
from pipeline.recipe import FineTune, Optimisation
from pipeline.training.configuration import read_deepspeed_json

#: Settings that decide how a run is logged, saved and executed, but not its result.
IDLE = {
    "name",
    "log_every",
    "profile",
    "peak_tflops",
    "spike_factor",
    "samples",
    "validate_every",
    "save_every",
    "save_minutes",
    "keep_checkpoints",
    "keep_every",
    "keep_best",
    "max_skipped_steps",
    "micro_batch_size",
    "activation_checkpointing",
    "compile",
    "deepspeed",
}

#: Settings of fine-tuning that list its jobs, or that the identity of one job holds elsewhere.
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
    """Return the settings, the dtype and the optimizer that decide a result, as JSON values."""
    exclude = IDLE | (_COMPARED if isinstance(settings, FineTune) else {"original"})
    chooses = {"patience", "min_delta", "export"}
    if settings.patience is None:
        exclude |= {"patience", "min_delta"}
    if settings.export == "last":
        exclude |= {"export"}
    # Results from before this setting existed keep their fingerprints.
    if not settings.scale_parameter:
        exclude |= {"scale_parameter"}
    # The result then depends on which steps are validated.
    if not chooses <= exclude:
        exclude -= {"validate_every"}
    payload = settings.model_dump(mode="json", exclude=exclude)
    return payload | {
        "dtype": resolve_dtype(settings.dtype),
        "optimizer": read_deepspeed_json(settings.deepspeed).get("optimizer"),
    }
