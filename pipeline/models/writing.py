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
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from pipeline.artifacts.atomic import publish_directory, temporary_name

#: Entries of a configuration that steer generation whatever the decoding method; some models cannot begin or end without.
_GENERATION = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id",
               "forced_eos_token_id")  # fmt: skip


def stored_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return what a file of `model` holds: each parameter once, tied or not, and the buffers that are saved with it."""
    return dict(model.named_parameters()) | stored_buffers(model)


def stored_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers that belong into a file, such as BART's `final_logits_bias`."""
    saved = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def write_model(
    directory: Path,
    config: Any,
    weights: Mapping[str, torch.Tensor],
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write config.json, generation_config.json and model.safetensors to `directory`, atomically; an older one is replaced.

    weights: see stored_weights; on the CPU. more: adds files (a tokenizer, a model card) to the directory before it appears.
    """
    temporary = temporary_name(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config.dtype = next(iter(weights.values())).dtype
    config.save_pretrained(temporary)
    generation = {
        name: value for name in _GENERATION if (value := getattr(config, name, None)) is not None
    }
    # mBART names no start token: it is trained to start from the last token of its labels, which is EOS.
    generation.setdefault("decoder_start_token_id", config.eos_token_id)
    GenerationConfig(**generation).save_pretrained(temporary)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        temporary / "model.safetensors",
        {"format": "pt"},
    )
    if more is not None:
        more(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    publish_directory(temporary, directory)
