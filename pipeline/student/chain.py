"""The shapes of a chain: assistants between teacher and student."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.families import Shape, family_of
from pipeline.models.size import Sizes
from pipeline.recipe import ModelShape
from pipeline.student.scaling import between, nearest_to
from pipeline.student.shapes import describe, student_shape

#: The most a teacher may have of its student's non-embedding parameters with `auto`: the law of the capacity gap, arXiv 2311.07052.
WIDEST_LINK = 2.5

Assistants = int | Literal["auto"] | Sequence[ModelShape]


def chain_shapes(
    teacher_config: Any, student: Shape, assistants: Assistants, separate_head: bool | None = None
) -> list[Shape]:
    """Return the shape of every link's result, teacher side first: the assistants' and then the student's.

    A pure function of configurations: no weights, no files. assistants: so many, of sizes that lie geometrically between teacher and
    student in non-embedding parameters, each dimension moving geometrically; "auto", the fewest with which no link's teacher has
    more than 2.5 times the parameters of its student; or the shapes themselves, completed from the teacher's (separate_head: as for
    `student_shape`).
    Raises ConfigError where "auto" finds no such chain, and for a shape that cannot be.
    """
    if isinstance(assistants, int):
        shapes = _interpolated(teacher_config, student, assistants)
    elif assistants == "auto":
        shapes = _fewest(teacher_config, student)
    else:
        shapes = [student_shape(asked, teacher_config, separate_head) for asked in assistants]
    for shape in [*shapes, student]:
        family_of(teacher_config).with_shape(teacher_config, shape)
    return [*shapes, student]


def _interpolated(config: Any, student: Shape, count: int) -> list[Shape]:
    family, sizes = family_of(config), Sizes(config)
    teacher = family.shape(config)
    big, small = sizes.of(teacher).blocks, sizes.of(student).blocks
    candidates = list(between(teacher, student, family))
    shapes = []
    for index in range(1, count + 1):
        target = big * (small / big) ** (index / (count + 1))
        found = nearest_to(target, candidates, lambda shape: sizes.of(shape).blocks)
        assert found is not None
        shapes.append(found)
    return shapes


def _fewest(config: Any, student: Shape) -> list[Shape]:
    sizes, teacher = Sizes(config), family_of(config).shape(config)
    ratio = sizes.of(teacher).blocks / sizes.of(student).blocks
    # Rounding can make a link wider than its share, which one more assistant usually mends.
    least = max(0, math.ceil(math.log(max(ratio, 1.0), WIDEST_LINK) - 1e-9) - 1)
    for count in range(least, least + 4):
        shapes = _interpolated(config, student, count)
        links = itertools.pairwise(sizes.of(shape).blocks for shape in (teacher, *shapes, student))
        if all(big <= WIDEST_LINK * small for big, small in links):
            return shapes
    raise ConfigError(
        f"interpolated.assistants auto: no chain of up to {least + 3} assistants from {describe(teacher)} to {describe(student)} "
        f"has all its links within {WIDEST_LINK}:1, as such dimensions cannot be divided so finely: list the assistants"
    )
