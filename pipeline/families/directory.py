"""Writing a model as a directory that `AutoModelForSeq2SeqLM.from_pretrained` loads.

Transformers' own `save_pretrained` is not used: since release 5 a T5 configuration always claims tied embeddings, and whether
the head is really tied (T5 1.0) or not (T5 1.1, Flan-T5) is decided by the weights that are in the file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from pipeline.artifacts.atomic import publish_directory, temporary_name


def write_model(
    directory: Path, config: Any, weights: Mapping[str, torch.Tensor], more: Callable[[Path], None] | None = None
) -> None:
    """Write config.json, generation_config.json and model.safetensors to `directory`, atomically; an older one is replaced.

    weights: each parameter once, on the CPU. more: adds files (a tokenizer, a model card) to the directory before it appears.
    """
    temporary = temporary_name(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config.dtype = next(iter(weights.values())).dtype
    config.save_pretrained(temporary)
    GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    ).save_pretrained(temporary)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        temporary / "model.safetensors",
        {"format": "pt"},
    )
    if more is not None:
        more(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    publish_directory(temporary, directory)
