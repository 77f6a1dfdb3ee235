"""Model directories that `AutoModelForSeq2SeqLM.from_pretrained` loads, and those of tails.

Transformers' own `save_pretrained` is not used. Since release 5 a T5 configuration always claims
tied embeddings. The weights in the file decide whether the head is really tied (T5 1.0) or not
(T5 1.1, Flan-T5).
"""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from pipeline.artifacts.atomic import publish_directory, temporary_name

#: Entries of a configuration that steer generation with any decoding method.
#: Some models cannot begin or end without them.
_GENERATION = (
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "pad_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


def stored_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return what a file of `model` holds: parameters and the buffers that are saved with it.

    Each parameter is there once, tied or not.
    """
    return dict(model.named_parameters()) | stored_buffers(model)


def stored_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers that belong into a file, such as BART's `final_logits_bias`."""
    saved = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def write_model(
    directory: Path,
    config: PretrainedConfig,
    weights: Mapping[str, torch.Tensor],
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write a model directory atomically; an older one is replaced.

    It gets config.json, generation_config.json and model.safetensors.
    weights: on the CPU; see stored_weights.
    more: adds files (a tokenizer, a model card) to the directory before it appears.
    """
    config = copy.deepcopy(config)
    config.dtype = next(iter(weights.values())).dtype
    with _new_directory(directory) as temporary:
        config.save_pretrained(temporary)
        _generation(config).save_pretrained(temporary)
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()},
            temporary / "model.safetensors",
            {"format": "pt"},
        )
        if more is not None:
            more(temporary)


def write_tail(
    config: PretrainedConfig, state: Mapping[str, torch.Tensor], directory: Path
) -> None:
    """Write a tail (config.json and model.safetensors) atomically; an older one is replaced."""
    with _new_directory(directory) as temporary:
        config.save_pretrained(temporary)
        save_file(
            {name: tensor.detach().cpu().clone() for name, tensor in state.items()},
            temporary / "model.safetensors",
        )


@contextlib.contextmanager
def _new_directory(directory: Path) -> Iterator[Path]:
    """Give an empty temporary directory, which replaces `directory` at the end."""
    temporary = temporary_name(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(directory, ignore_errors=True)
    publish_directory(temporary, directory)


def _generation(config: PretrainedConfig) -> GenerationConfig:
    values = {
        name: value for name in _GENERATION if (value := getattr(config, name, None)) is not None
    }
    # mBART names no start token: it is trained to start from the last token of its labels, EOS.
    values.setdefault("decoder_start_token_id", config.eos_token_id)
    return GenerationConfig(**values)
