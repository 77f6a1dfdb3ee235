"""Which blocks of a teacher each block of its student is made from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.families import Family
from pipeline.families.base import Stack
from pipeline.recipe import BlockList

Choice = Literal["uniform", "first", "last", "average"] | BlockList
#: For each weight of the student the names of the teacher's it is the mean of; one of them, as a rule.
Sources = dict[str, list[str]]


def chosen_blocks(choice: Choice, stack: Stack, teacher: int, student: int) -> list[list[int]]:
    """Return which of `teacher` blocks each of `student` blocks is the mean of: one each, but for "average".

    "uniform" has both ends among them (DistilBERT, arXiv 1910.01108, takes every second one); "average" shares all blocks out
    between neighbours. Raises ConfigError when there are too few, or none of that number.
    """
    if isinstance(choice, BlockList):
        return [[block] for block in _listed(getattr(choice, stack), stack, teacher, student)]
    if student > teacher:
        raise ConfigError(
            f"student.init layers: {student} blocks cannot be copied from a teacher with {teacher}; use init: random"
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
    """Return, for each of the student's weights in `names`, the teacher's weights that it comes from."""
    prefixes = [
        (family.block_prefix(stack, place), stack, place, blocks)
        for stack, places in chosen.items()
        for place, blocks in enumerate(places)
    ]
    found: Sources = {}
    for name in names:
        found[name] = [name]
        for prefix, stack, place, blocks in prefixes:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                moved = blocks if family.moves_with_block(rest) else [place]
                found[name] = [family.block_prefix(stack, block) + rest for block in moved]
    return found


def _listed(blocks: list[int], stack: Stack, teacher: int, student: int) -> list[int]:
    if len(blocks) != student:
        raise ConfigError(
            f"student.init.blocks.{stack} lists {len(blocks)} blocks, and the student has {student}: "
            f"set student.{stack}_layers={len(blocks)}, or list as many"
        )
    for block in blocks:
        if not -teacher <= block < teacher:
            raise ConfigError(
                f"student.init.blocks.{stack}: {block}, but the teacher has blocks 0 to {teacher - 1}"
            )
    return [block % teacher for block in blocks]
