"""DeepSpeed's JSON, read and completed by the recipe. No heavy imports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.hardware import resolve_dtype
from pipeline.recipe import Optimisation


def read_deepspeed_json(path: str) -> dict[str, Any]:
    """Return the content of a DeepSpeed JSON; raises ConfigError if it is missing or not valid."""
    try:
        config = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"DeepSpeed configuration {path} does not exist: see ds_configs/"
        ) from None
    except ValueError as error:
        raise ConfigError(f"DeepSpeed configuration {path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"DeepSpeed configuration {path} must be a JSON object")
    return config


def is_partitioned(settings: Optimisation) -> bool:
    """Return whether each rank holds a part of the weights (ZeRO-3)."""
    zero = read_deepspeed_json(settings.deepspeed).get("zero_optimization", {})
    return bool(zero.get("stage", 0) == 3)


def deepspeed_config(settings: Optimisation, world: int) -> dict[str, Any]:
    """Return the recipe's DeepSpeed JSON for `world` ranks, with each "auto" filled in.

    Raises ConfigError for a value that the recipe owns but the JSON sets too, and for a batch size
    that does not divide.
    """
    config = read_deepspeed_json(settings.deepspeed)
    dtype = resolve_dtype(settings.dtype)
    micro = micro_batch_size(settings, world)
    owned = {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": settings.batch_size // (micro * world),
        "gradient_clipping": settings.gradient_clipping,
        "bf16.enabled": dtype == "bfloat16",
        "fp16.enabled": dtype == "float16",
        "optimizer.params.lr": settings.learning_rate,
        "optimizer.params.betas": list(settings.betas),
        "optimizer.params.weight_decay": settings.weight_decay,
    }
    for path, value in owned.items():
        *sections, key = path.split(".")
        target = config
        for section in sections:
            target = target.setdefault(section, {})
        if target.get(key, "auto") != "auto":
            raise ConfigError(
                f"{settings.deepspeed}: {path} belongs to the recipe; "
                'write "auto" there or leave it out'
            )
        target[key] = value
    return config | {"steps_per_print": 10**12}


def micro_batch_size(settings: Optimisation, world: int) -> int:
    """Return the number of examples in one forward pass on one rank.

    Raises ConfigError when the batch size does not divide.
    """
    micro = settings.micro_batch_size or max(1, settings.batch_size // world)
    if settings.batch_size % (micro * world):
        raise ConfigError(
            f"batch_size {settings.batch_size} is not a multiple of micro_batch_size {micro} × "
            f"{world} ranks: change one"
        )
    return micro
