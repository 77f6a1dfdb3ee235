"""A model partitioned over the ranks by ZeRO-3, for forward passes only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.models import ModelDirectory
from pipeline.training import distributed
from pipeline.training.configuration import read_deepspeed_json
from pipeline.training.engine import build_model
from pipeline.training.task import Engine


def inference_config(path: str, dtype: str) -> dict[str, Any]:
    """Return a completed DeepSpeed JSON for inference.

    Raises ConfigError when it does not ask for ZeRO stage 3, or sets what the recipe owns.
    """
    config = read_deepspeed_json(path)
    if config.get("zero_optimization", {}).get("stage") != 3 or "optimizer" in config:
        raise ConfigError(
            f"{path}: a teacher runs under zero_optimization.stage 3, without an optimizer"
        )
    for key in ("bf16", "fp16", "train_micro_batch_size_per_gpu"):
        if key in config:
            raise ConfigError(f"{path}: {key} belongs to the recipe; leave it out there")
    return config | {
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
        "train_micro_batch_size_per_gpu": 1,
        "steps_per_print": 10**12,
    }


def load_partitioned(
    directory: ModelDirectory, dtype: str, config: dict[str, Any]
) -> PreTrainedModel:
    """Load a model partitioned over the ranks; every rank calls it.

    config: the result of `inference_config`.
    """
    distributed.setup()
    model = build_model(directory, directory.architecture.config, getattr(torch, dtype), config)
    model.eval().requires_grad_(False)
    return model


def inference_engine(module: nn.Module, config: dict[str, Any]) -> Engine:
    """Hand a module that holds a partitioned model to DeepSpeed.

    The module's forward must run to its end. DeepSpeed releases weights after the module that used
    them, and a forward pass left midway never gets there.
    """
    import deepspeed

    engine, *_ = deepspeed.initialize(model=module, config=config)
    engine.eval()
    return engine


def whole_weight(parameter: torch.Tensor) -> torch.Tensor:
    """Return a copy of a whole partitioned weight; every rank calls it and gets one."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()
