"""Compilation (torch.compile) of the blocks without hooks inside (docs/adr/0007)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline import ranks
from pipeline.errors import ConfigError
from pipeline.families import family_of
from pipeline.families.base import Stack
from pipeline.recipe import Optimisation
from pipeline.training.configuration import deepspeed_config


def check_compile(settings: Optimisation) -> None:
    """Raise ConfigError where settings.compile cannot work."""
    if not settings.compile:
        return
    config = deepspeed_config(settings, ranks.world_size())
    if config.get("zero_optimization", {}).get("stage", 0) == 3:
        raise ConfigError(
            f"compile: {settings.deepspeed} asks for ZeRO-3, which gathers weights between any two "
            "modules and so leaves nothing to compile: set "
            "deepspeed=ds_configs/zero2_finetune.json, or compile=false"
        )
    compiler = os.environ.get("CXX", "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise ConfigError(
            f"compile: on a CPU it needs a C++ compiler, and there is no {compiler}: "
            "set compile=false"
        )


def compile_blocks(model: PreTrainedModel, watched: Collection[tuple[Stack, int]] = ()) -> None:
    """Compile the forward pass of every block except `watched`.

    watched: (stack, index), a negative index counts from the end. Hooks inside a compiled block
    would not run, or those of an earlier pass would. Blocks with such hooks are therefore left as
    they are. Hooks on a block itself run as usual.
    """
    family = family_of(model.config)
    stacks: tuple[Stack, ...] = ("encoder", "decoder")
    for stack in stacks:
        blocks = family.blocks(model, stack)
        uncompiled = {index % len(blocks) for name, index in watched if name == stack}
        for number, block in enumerate(blocks):
            if number not in uncompiled:
                compiled: Any = block
                compiled.forward = torch.compile(block.forward)
    # The default of 8 is too small: two stacks, each with a first block (it has the position
    # biases) and others, in training and in evaluation.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
