"""The student as an ordinary Transformers directory: config, safetensors, generation config, tokenizer, model card."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from pipeline.artifacts.atomic import publish_directory
from pipeline.training import distributed
from pipeline.training.engine import gather_weights


def export_model(module: nn.Module, directory: Path, tokenizer: Path, card: str) -> list[str]:
    """Gather the weights of a Transformers model under DeepSpeed and write `directory`; every rank must call it.

    tokenizer: the directory whose tokenizer goes along; card: Markdown for README.md. An older `directory` is replaced.
    Returns the names of the files, relative to the parent of `directory`.
    """
    weights = dict(gather_weights(module))
    if distributed.rank() == 0:
        config: Any = module.config
        dtype = next(iter(weights.values())).dtype
        with torch.device("meta"):
            model = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype)
        model.load_state_dict(weights, strict=False, assign=True)
        model.tie_weights()
        model.generation_config = _generation_config(config)
        temporary = directory.with_name(f".tmp-{os.getpid()}-{directory.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(temporary)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        publish_directory(temporary, directory)
    distributed.barrier()
    return sorted(f"{directory.name}/{path.relative_to(directory)}" for path in directory.rglob("*") if path.is_file())


def _generation_config(config: Any) -> GenerationConfig:
    return GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
