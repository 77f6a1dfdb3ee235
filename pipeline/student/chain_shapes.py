"""The shapes of a chain: assistants between teacher and student."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.models.architecture import Architecture
from pipeline.recipe import ModelShape
from pipeline.student.scaling import between, nearest_to
from pipeline.student.shapes import describe, student_shape

#: With `auto`, a teacher has at most this times its student's non-embedding parameters: the law of
#: the capacity gap, arXiv 2311.07052.
WIDEST_LINK = 2.5

Assistants = int | Literal["auto"] | Sequence[ModelShape]


def chain_shapes(teacher: Architecture, student: Shape, assistants: Assistants) -> list[Shape]:
    """Return the shape of every link's result, teacher side first: the assistants, the student.

    No weights and no files are read. `assistants` is one of:

    - A number of assistants. Their non-embedding parameters lie geometrically between teacher and
      student, and each dimension moves geometrically.
    - "auto": the fewest with which no link's teacher has more than 2.5 times the parameters of its
      student.
    - The shapes themselves, completed from the teacher's.

    Raises ConfigError if "auto" finds no such chain, and for a shape that cannot be.
    """
    if isinstance(assistants, int):
        shapes = _interpolated(teacher, student, assistants)
    elif assistants == "auto":
        shapes = _fewest(teacher, student)
    else:
        shapes = [student_shape(asked, teacher) for asked in assistants]
    for shape in [*shapes, student]:
        teacher.with_shape(shape)
    return [*shapes, student]


def _interpolated(teacher: Architecture, student: Shape, count: int) -> list[Shape]:
    def blocks(shape: Shape) -> int:
        return teacher.sizes.of(shape).blocks

    large, small = blocks(teacher.shape), blocks(student)
    candidates = list(between(teacher.shape, student, teacher.family))
    shapes = []
    for index in range(1, count + 1):
        target = large * (small / large) ** (index / (count + 1))
        nearest = nearest_to(target, candidates, blocks)
        assert nearest is not None
        shapes.append(nearest)
    return shapes


def _fewest(teacher: Architecture, student: Shape) -> list[Shape]:
    sizes = teacher.sizes
    ratio = teacher.size.blocks / sizes.of(student).blocks
    # Rounding can make a link wider than its share; one more assistant usually fixes it.
    least = max(0, math.ceil(math.log(max(ratio, 1.0), WIDEST_LINK) - 1e-9) - 1)
    for count in range(least, least + 4):
        shapes = _interpolated(teacher, student, count)
        models = (teacher.shape, *shapes, student)
        links = itertools.pairwise(sizes.of(shape).blocks for shape in models)
        if all(large <= WIDEST_LINK * small for large, small in links):
            return shapes
    raise ConfigError(
        f"interpolated.assistants auto: no chain of up to {least + 3} assistants from "
        f"{describe(teacher.shape)} to {describe(student)} has all its links within "
        f"{WIDEST_LINK}:1, as such dimensions cannot be divided so finely: list the assistants"
    )
