"""Loading a whole model, with every weight it has."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.models.directory import ModelDirectory


def load_whole(directory: ModelDirectory, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a directory on the CPU, in evaluation mode.

    Raises ConfigError when a weight is missing. Transformers would fill it with random numbers,
    different ones in each process, and only warn.
    """
    model: Any
    model, report = AutoModelForSeq2SeqLM.from_pretrained(
        directory.path, dtype=dtype, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"model {directory.name}: no weight for {missing[0]} (and {len(missing) - 1} more): "
            "it holds only a part of an encoder-decoder model; give one that holds all of it"
        )
    return model.eval()
