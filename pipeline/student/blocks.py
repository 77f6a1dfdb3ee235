"""The teacher's blocks that each block of its student is made from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.families import Family
from pipeline.families.base import Stack
from pipeline.recipe import BlockList

Choice = Literal["uniform", "first", "last", "average"] | BlockList
#: By the student's weight, the names of the teacher's weights it is the mean of; usually one.
Sources = dict[str, list[str]]


def chosen_blocks(choice: Choice, stack: Stack, teacher: int, student: int) -> list[list[int]]:
    """Return, for each of `student` blocks, the teacher's blocks it is the mean of.

    It is one block each, except with "average", where neighbours share all blocks between them.
    "uniform" includes both ends (DistilBERT, arXiv 1910.01108, takes every second block).
    teacher: the number of its blocks. Raises ConfigError if it has too few, or not a listed one.
    """
    if isinstance(choice, BlockList):
        return [[block] for block in _listed(getattr(choice, stack), stack, teacher, student)]
    if student > teacher:
        raise ConfigError(
            f"student.init layers: {student} blocks cannot be copied from a teacher with "
            f"{teacher}; use init: random"
        )
    if choice == "average":
        bounds = [index * teacher // student for index in range(student + 1)]
        return [list(range(start, stop)) for start, stop in itertools.pairwise(bounds)]
    if choice == "first":
        return [[index] for index in range(student)]
    if choice == "last" or student == 1:
        return [[index] for index in range(teacher - student, teacher)]
    return [[round(index * (teacher - 1) / (student - 1))] for index in range(student)]


def sources(names: Iterable[str], family: Family, chosen: dict[Stack, list[list[int]]]) -> Sources:
    """Return, for each of the student's weights in `names`, the teacher's weights it comes from.

    chosen: by stack, as `chosen_blocks` returns them.
    """
    prefixes = [
        (family.block_prefix(stack, index), stack, index, blocks)
        for stack, choices in chosen.items()
        for index, blocks in enumerate(choices)
    ]
    made_of: Sources = {}
    for name in names:
        made_of[name] = [name]
        for prefix, stack, index, blocks in prefixes:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                copied = blocks if family.moves_with_block(rest) else [index]
                made_of[name] = [family.block_prefix(stack, block) + rest for block in copied]
    return made_of


def _listed(blocks: list[int], stack: Stack, teacher: int, student: int) -> list[int]:
    if len(blocks) != student:
        raise ConfigError(
            f"student.init.blocks.{stack} lists {len(blocks)} blocks, and the student has "
            f"{student}: set student.{stack}_layers={len(blocks)}, or list as many"
        )
    for block in blocks:
        if not -teacher <= block < teacher:
            raise ConfigError(
                f"student.init.blocks.{stack}: {block}, but the teacher has blocks 0 to "
                f"{teacher - 1}"
            )
    return [block % teacher for block in blocks]
