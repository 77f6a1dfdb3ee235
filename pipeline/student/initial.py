"""A student's first weights: drawn at random, or copied from evenly spaced blocks of its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import family_of
from pipeline.families.base import Stack
from pipeline.families.directory import write_model


def chosen_blocks(teacher: int, student: int) -> list[int]:
    """Return which of `teacher` blocks each of `student` blocks is copied from: evenly spaced, first and last among them."""
    if student > teacher:
        raise ConfigError(
            f"student.init layers: {student} blocks cannot be copied from a teacher with {teacher}; use init: random"
        )
    if student == 1:
        return [teacher - 1]
    return [round(index * (teacher - 1) / (student - 1)) for index in range(student)]


def write_initial_student(config: Any, init: str, teacher: Path | None, seed: int, directory: Path) -> None:
    """Write the student's first weights to `directory` in float32, atomically; the same seed gives the same bytes.

    config: the student's configuration. teacher: a Transformers directory, needed for init "layers".
    Raises ConfigError when the widths of student and teacher differ under "layers".
    """
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    family_of(config).initialise(model)
    if init == "layers":
        if teacher is None:
            raise ConfigError(
                "student.init layers copies blocks from a teacher, and this recipe names none: use init: random"
            )
        _copy_blocks(model, AutoModelForSeq2SeqLM.from_pretrained(teacher, dtype=torch.float32))
    write_model(directory, config, dict(model.named_parameters()))


@torch.no_grad()
def _copy_blocks(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    family = family_of(student.config)
    if family.head_is_separate(dict(teacher.named_parameters())):
        family.separate_head(student)
    source, target = teacher.state_dict(), student.state_dict()
    stacks: tuple[Stack, ...] = ("encoder", "decoder")
    inside: set[str] = set()
    for stack in stacks:
        chosen = chosen_blocks(len(family.blocks(teacher, stack)), len(family.blocks(student, stack)))
        for place, block in enumerate(chosen):
            prefix = family.block_prefix(stack, place)
            for name in [name for name in target if name.startswith(prefix)]:
                inside.add(name)
                rest = name.removeprefix(prefix)
                from_block = block if family.moves_with_block(rest) else place
                _copy(target[name], source[family.block_prefix(stack, from_block) + rest], name)
    for name in target.keys() - inside:
        _copy(target[name], source[name], name)


def _copy(target: torch.Tensor, source: torch.Tensor, name: str) -> None:
    if target.shape != source.shape:
        raise ConfigError(
            f"student.init layers: {name} is {tuple(target.shape)} in the student and {tuple(source.shape)} in the teacher; "
            "blocks are copied between equal widths only: keep d_model, d_ff, num_heads and d_kv, or use init: random"
        )
    target.copy_(source)
