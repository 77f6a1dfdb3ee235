"""A student's first weights: drawn at random, or copied from evenly spaced blocks of its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Shape, family_of
from pipeline.families.base import Stack
from pipeline.families.directory import stored_weights, write_model


def chosen_blocks(teacher: int, student: int) -> list[int]:
    """Return which of `teacher` blocks each of `student` blocks is copied from: evenly spaced, first and last among them."""
    if student > teacher:
        raise ConfigError(
            f"student.init layers: {student} blocks cannot be copied from a teacher with {teacher}; use init: random"
        )
    if student == 1:
        return [teacher - 1]
    return [round(index * (teacher - 1) / (student - 1)) for index in range(student)]


def check_copy(student: Shape, teacher: Shape) -> None:
    """Raise ConfigError unless a student of this shape can be made of blocks of such a teacher."""
    chosen_blocks(teacher.encoder_layers, student.encoder_layers)
    chosen_blocks(teacher.decoder_layers, student.decoder_layers)
    for name in ("d_model", "d_ff", "num_heads", "d_kv"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ConfigError(
                f"student.{name} is {ours} and the teacher's is {theirs}: student.init layers copies blocks between equal widths "
                "only; leave it out, or use init: random"
            )


def write_initial_student(config: Any, init: Any, teacher: Path | None, seed: int, directory: Path) -> None:
    """Write the student's first weights to `directory` in float32, atomically; the same seed gives the same bytes.

    config: the student's configuration. teacher: a Transformers directory, needed for init "layers".
    Raises ConfigError when the shapes of student and teacher do not allow "layers".
    """
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    family_of(config).initialise(model)
    if init == "layers":
        if teacher is None:
            raise ConfigError(
                "student.init layers copies blocks from a teacher, and this recipe names none: use init: random"
            )
        source = AutoModelForSeq2SeqLM.from_pretrained(teacher, dtype=torch.float32)
        check_copy(family_of(config).shape(config), family_of(config).shape(source.config))
        _copy_blocks(model, source)
    write_model(directory, config, stored_weights(model))


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
                target[name].copy_(source[family.block_prefix(stack, from_block) + rest])
    for name in target.keys() - inside:
        target[name].copy_(source[name])
