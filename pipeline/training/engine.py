"""A Transformers model under DeepSpeed: built in `zero.Init`, its weights loaded and gathered."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

from pipeline import ranks
from pipeline.errors import ConfigError
from pipeline.hardware import resolve_dtype
from pipeline.models import ModelDirectory
from pipeline.models.weights import name_in_model, weight_files
from pipeline.models.writing import stored_buffers
from pipeline.recipe import Optimisation
from pipeline.training.configuration import deepspeed_config, is_partitioned
from pipeline.training.task import Engine


def prepare_config(config: PretrainedConfig, settings: Optimisation) -> None:
    """Set the recipe's dropout in a model's configuration, and switch layer dropout off."""
    for name in ("dropout_rate", "dropout", "attention_dropout", "activation_dropout"):
        if hasattr(config, name):
            setattr(config, name, settings.dropout)
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        # A block left out has no q, k, v to compare, and ZeRO-3 would wait for it.
        if hasattr(config, name):
            setattr(config, name, 0.0)


def load_model(directory: ModelDirectory, settings: Optimisation) -> PreTrainedModel:
    """Build a model for training; under ZeRO-3 it is partitioned from the start.

    Parameters get the compute dtype, and dropout is the recipe's.
    """
    config = copy.deepcopy(directory.architecture.config)
    prepare_config(config, settings)
    partition = deepspeed_config(settings, ranks.world_size())
    dtype = getattr(torch, resolve_dtype(settings.dtype))
    model = build_model(directory, config, dtype, partition if is_partitioned(settings) else None)
    if settings.activation_checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Transformers 6 renames it
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def build_model(
    directory: ModelDirectory,
    config: PretrainedConfig,
    dtype: torch.dtype,
    partition: dict[str, Any] | None,
) -> PreTrainedModel:
    """Build the model that `config` describes and fill it with the weights of `directory`.

    partition: the DeepSpeed configuration under which each rank holds a part of every weight; None
    for whole weights. Raises ConfigError when names or shapes do not fit.
    """
    import deepspeed
    from transformers.initialization import no_init_weights

    context = contextlib.nullcontext()
    if partition is not None:
        context = deepspeed.zero.Init(config_dict_or_path=partition)
    architecture = directory.architecture
    with no_init_weights(), context:
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype)
        model.tie_weights()
        if architecture.separate_head:
            architecture.family.separate_head(model)
    load_weights(model, directory)
    return model


def initialize(model: nn.Module, settings: Optimisation, *, universal: bool = False) -> Engine:
    """Hand `model` to DeepSpeed and return its engine.

    universal: whether a universal checkpoint will be loaded into it.
    """
    import deepspeed

    config = deepspeed_config(settings, ranks.world_size())
    if universal:
        config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = {1.0: parameters} if not settings.scale_parameter else group_by_scale(parameters)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[{"params": members} for members in groups.values()],
        config=config,
    )
    # Kept apart from the optimizer's groups, whose own entries a checkpoint replaces.
    engine.rate_scales = list(groups)
    return engine


def set_learning_rate(engine: Engine, rate: float) -> None:
    """Set the learning rate of the next step, scaled for each parameter group."""
    for group, scale in zip(engine.optimizer.param_groups, engine.rate_scales, strict=True):
        group["lr"] = rate * scale


def group_by_scale(parameters: list[nn.Parameter]) -> dict[float, list[nn.Parameter]]:
    """Group parameters by the root mean square of their values.

    It is rounded to a power of 2, so that there are few groups. The same values give the same
    groups on any number of ranks. Adafactor's floor of 1e-3 lets weights that begin at zero move.
    """
    import deepspeed

    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        gathered = (
            deepspeed.zero.GatheredParameters([parameter]) if hasattr(parameter, "ds_id") else None
        )
        with gathered or contextlib.nullcontext():
            root = parameter.detach().float().square().mean().sqrt().item()
        groups.setdefault(2.0 ** round(math.log2(max(root, 1e-3))), []).append(parameter)
    return dict(sorted(groups.items()))


def load_weights(model: PreTrainedModel, directory: ModelDirectory) -> None:
    """Copy the safetensors files of `directory` into `model`, partitioned or not.

    Raises ConfigError when names or shapes do not fit.
    """
    from safetensors import safe_open

    parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    loaded: set[int] = set()
    for file in weight_files(directory.path):
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():  # noqa: SIM118 - not a dict
                name = name_in_model(key, model, parameters)
                if name is None:
                    continue
                if name not in parameters:
                    raise ConfigError(
                        f"{file}: weight {key} has no place in the model its config.json describes"
                    )
                with _writable(parameters[name]) as target:
                    if target is not None:
                        target.copy_(handle.get_tensor(key))
                loaded.add(id(parameters[name]))
    _require_all(parameters, loaded, directory)
    _compute_missing(model, loaded)


def _require_all(
    parameters: Mapping[str, torch.Tensor],
    loaded: set[int],
    directory: ModelDirectory,
) -> None:
    absent = [
        name
        for name, parameter in parameters.items()
        if id(parameter) not in loaded and parameter.requires_grad
    ]
    if absent:
        raise ConfigError(
            f"{directory.path}: no weight for {absent[0]} (and {len(absent) - 1} more)"
        )


def _compute_missing(model: PreTrainedModel, loaded: set[int]) -> None:
    """Fill tables that are computed, not learned, and need no file (Marian's positions)."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in loaded:
                with _writable(parameter) as target:
                    if target is not None:
                        model._init_weights(module)


def replace_weights(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put `weights` into a module that is not trained further.

    weights: by the names of the module's parameters. Every rank calls it, rank 0 with the weights.
    The optimizer's own copies stay as they are.
    """
    for name, parameter in module.named_parameters():
        with _writable(parameter) as target:
            if ranks.rank() == 0 and target is not None:
                target.copy_(weights[name])
            if not hasattr(parameter, "ds_id") and ranks.world_size() > 1:
                torch.distributed.broadcast(parameter.data, 0)


def gather_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, CPU copy) of each parameter and saved buffer, one at a time.

    Every rank must iterate; only rank 0 gets them.
    """
    import deepspeed

    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if ranks.rank() == 0:
                yield name, parameter.detach().to("cpu", copy=True)
    if ranks.rank() == 0:
        yield from (
            (name, buffer.to("cpu", copy=True)) for name, buffer in stored_buffers(model).items()
        )


@contextlib.contextmanager
def _writable(parameter: torch.Tensor) -> Iterator[torch.Tensor | None]:
    import deepspeed

    if not hasattr(parameter, "ds_id"):
        with torch.no_grad():
            yield parameter
        return
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
        yield parameter.data if ranks.rank() == 0 else None
