"""A teacher too large for one device: partitioned over the ranks by ZeRO-3, its weights gathered where they are used."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Family, family_of
from pipeline.families.base import Head
from pipeline.hardware import resolve_dtype
from pipeline.lineage import read_deepspeed_json
from pipeline.models import open_model
from pipeline.models.weights import read_entries
from pipeline.recipe import Recipe, Teacher
from pipeline.teacher.capture import Captured, capture
from pipeline.teacher.loaded import WHOLE, Batch, LoadedTeacher, Loader
from pipeline.training import distributed
from pipeline.training.engine import load_weights


def teacher_loader(recipe: Recipe) -> Loader:
    """How the recipe's teacher is brought up: whole on each device, or partitioned when it names a DeepSpeed JSON."""
    partitioned = recipe.teacher is not None and recipe.teacher.deepspeed is not None
    return Loader(load_partitioned, together=True) if partitioned else WHOLE


def load_partitioned(spec: Teacher, cuts: tuple[int, int]) -> LoadedTeacher:
    """Load the teacher under ZeRO-3 inference. Every rank calls it, and all make their forward passes together.

    Raises ConfigError when the JSON does not ask for stage 3.
    """
    import deepspeed
    from transformers.initialization import no_init_weights

    distributed.setup()
    directory, dtype = open_model(spec.model).path, resolve_dtype(spec.dtype)
    config = _inference_config(spec, dtype)
    model_config = AutoConfig.from_pretrained(directory)
    family = family_of(model_config)
    with no_init_weights(), deepspeed.zero.Init(config_dict_or_path=config):
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(
            model_config, dtype=getattr(torch, dtype)
        )
        model.tie_weights()
        if family.head_is_separate(read_entries(directory)):
            family.separate_head(model)
    load_weights(model, directory)
    model.eval().requires_grad_(False)
    engine, *_ = deepspeed.initialize(model=_Capture(model, family, cuts), config=config)
    engine.eval()
    return LoadedTeacher(
        model=model,
        family=family,
        run=lambda batch, whole: engine(batch),
        head=_whole_head(model, family),
        tail=lambda: _tail_state(model, family, cuts),
        device=distributed.device(),
        most_passes=distributed.largest,
        close=engine.destroy,
    )


class _Capture(nn.Module):
    """A forward pass that captures, as the root module whose forward DeepSpeed follows."""

    def __init__(self, model: PreTrainedModel, family: Family, cuts: tuple[int, int]) -> None:
        super().__init__()
        self.model, self._family, self._cuts = model, family, cuts

    def forward(self, batch: Batch) -> Captured:
        # To the end, always: DeepSpeed releases weights after the module that used them, which a pass left midway never reaches.
        return capture(self.model, self._family, self._cuts, batch, whole=True)


def _whole_head(model: PreTrainedModel, family: Family) -> Head:
    import deepspeed

    head = family.head(model)
    with deepspeed.zero.GatheredParameters([head.weight]):
        return Head(head.weight.detach().clone(), head.scale, head.bias)


def _tail_state(
    model: PreTrainedModel, family: Family, cuts: tuple[int, int]
) -> tuple[Any, dict[str, torch.Tensor]]:
    import deepspeed

    config, names = family.tail_names(model.config, *cuts)
    whole = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    state = {}
    for name, source in names.items():
        with deepspeed.zero.GatheredParameters([whole[source]]):
            state[name] = whole[source].detach().clone()
    return config, state


def _inference_config(spec: Teacher, dtype: str) -> dict[str, Any]:
    assert spec.deepspeed is not None
    config = read_deepspeed_json(spec.deepspeed)
    if config.get("zero_optimization", {}).get("stage") != 3 or "optimizer" in config:
        raise ConfigError(
            f"{spec.deepspeed}: a teacher runs under zero_optimization.stage 3, without an optimizer"
        )
    for key in ("bf16", "fp16", "train_micro_batch_size_per_gpu"):
        if key in config:
            raise ConfigError(f"{spec.deepspeed}: {key} belongs to the recipe; leave it out there")
    return config | {
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
        "train_micro_batch_size_per_gpu": 1,
        "steps_per_print": 10**12,
    }
