"""A Transformers model under DeepSpeed: configuration, construction under `zero.Init`, loading and gathering of weights."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import family_of
from pipeline.hardware import resolve_dtype
from pipeline.lineage import read_deepspeed_json
from pipeline.models.weights import name_in_model, read_entries, weight_files
from pipeline.models.writing import stored_buffers
from pipeline.recipe import Optimisation
from pipeline.training import distributed


def deepspeed_config(settings: Optimisation) -> dict[str, Any]:
    """Fill the "auto"s of the recipe's DeepSpeed JSON.

    Raises ConfigError for a value that the recipe owns but the JSON sets too, and for a batch that does not divide.
    """
    config = read_deepspeed_json(settings.deepspeed)
    world, dtype = distributed.world_size(), resolve_dtype(settings.dtype)
    micro = settings.micro_batch_size or max(1, settings.batch_size // world)
    if settings.batch_size % (micro * world):
        raise ConfigError(
            f"batch_size {settings.batch_size} is not a multiple of micro_batch_size {micro} × {world} ranks: change one"
        )
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
                f'{settings.deepspeed}: {path} belongs to the recipe; write "auto" there or leave it out'
            )
        target[key] = value
    return config | {"steps_per_print": 10**12}


def is_partitioned(settings: Optimisation) -> bool:
    """Whether each rank holds a part of the weights (ZeRO-3)."""
    return bool(
        read_deepspeed_json(settings.deepspeed).get("zero_optimization", {}).get("stage", 0) == 3
    )


def prepare_config(config: Any, settings: Optimisation) -> None:
    """Change a model's configuration to what it is trained with: the recipe's dropout, and no block left out."""
    for name in ("dropout_rate", "dropout", "attention_dropout", "activation_dropout"):
        if hasattr(config, name):
            setattr(config, name, settings.dropout)
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        if hasattr(
            config, name
        ):  # a block left out has no q, k, v to compare, and ZeRO-3 would wait for it
            setattr(config, name, 0.0)


def load_model(directory: Path, settings: Optimisation) -> PreTrainedModel:
    """Build the model in `directory` for training: partitioned from the start under ZeRO-3, else whole.

    Parameters get the compute dtype; dropout is the recipe's.
    """
    import deepspeed
    from transformers.initialization import no_init_weights

    config = deepspeed_config(settings)
    model_config = AutoConfig.from_pretrained(directory)
    prepare_config(model_config, settings)
    partitioned = is_partitioned(settings)
    context = (
        deepspeed.zero.Init(config_dict_or_path=config) if partitioned else contextlib.nullcontext()
    )
    dtype = getattr(torch, resolve_dtype(settings.dtype))
    with no_init_weights(), context:
        model = AutoModelForSeq2SeqLM.from_config(model_config, dtype=dtype)
        model.tie_weights()
        family = family_of(model_config)
        if family.head_is_separate(read_entries(directory)):
            family.separate_head(model)
    load_weights(model, directory)
    if settings.activation_checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # release 6 of Transformers gives it another name
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def initialize(model: nn.Module, settings: Optimisation, *, universal: bool = False) -> Any:
    """Hand `model` to DeepSpeed; returns its engine. universal: a universal checkpoint will be loaded into it."""
    import deepspeed

    config = deepspeed_config(settings)
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


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the learning rate of the next step; weights whose rate is scaled take their share of it."""
    for group, scale in zip(engine.optimizer.param_groups, engine.rate_scales, strict=True):
        group["lr"] = rate * scale


def group_by_scale(parameters: list[nn.Parameter]) -> dict[float, list[nn.Parameter]]:
    """Group parameters by the root mean square of their values, rounded to a power of 2 so that there are few groups.

    The same values give the same groups on any number of ranks. Adafactor's floor of 1e-3 lets weights move that begin at zero.
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


def load_weights(model: PreTrainedModel, directory: Path) -> None:
    """Copy the safetensors files of `directory` into `model`, partitioned or not.

    Raises ConfigError when names or shapes do not fit.
    """
    from safetensors import safe_open

    parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    loaded: set[int] = set()
    for file in weight_files(directory):
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
    absent = [
        name
        for name, parameter in parameters.items()
        if id(parameter) not in loaded and parameter.requires_grad
    ]
    if absent:
        raise ConfigError(f"{directory}: no weight for {absent[0]} (and {len(absent) - 1} more)")
    # Tables that are computed, not learned, need not be in the file (Marian's positions).
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in loaded:
                with _writable(parameter) as target:
                    if target is not None:
                        model._init_weights(module)


def replace_weights(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put `weights`, by the names of `module`'s parameters, into a module that is trained no further.

    Every rank calls it, rank 0 with the weights. The optimizer's own copies stay as they are.
    """
    for name, parameter in module.named_parameters():
        with _writable(parameter) as target:
            if distributed.rank() == 0 and target is not None:
                target.copy_(weights[name])
            if not hasattr(parameter, "ds_id") and distributed.world_size() > 1:
                torch.distributed.broadcast(parameter.data, 0)


def gather_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, CPU copy) of each parameter and saved buffer, one at a time; every rank must iterate, rank 0 gets them."""
    import deepspeed

    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if distributed.rank() == 0:
                yield name, parameter.detach().to("cpu", copy=True)
    if distributed.rank() == 0:
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
        yield parameter.data if distributed.rank() == 0 else None
