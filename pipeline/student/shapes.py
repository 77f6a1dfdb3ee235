"""A student's shape: what the recipe says, completed from the teacher, checked before anything runs."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.families import Family, Shape, family_of
from pipeline.recipe import Student

#: What a model made from nothing looks like where the recipe is silent: T5 v1.1 small.
DEFAULT = Shape(encoder_layers=8, decoder_layers=8, d_model=512, d_ff=1024, num_heads=6, d_kv=64)
_DIMENSIONS = tuple(asdict(DEFAULT))


def student_shape(student: Student, teacher: Shape | None) -> Shape:
    """Complete the recipe's `student` from the teacher's shape, or from T5 v1.1 small's when there is no teacher."""
    given = {name: value for name in _DIMENSIONS if (value := getattr(student, name)) is not None}
    return replace(teacher or DEFAULT, **given)


def student_config(student: Student, teacher_config: Any | None, vocab_size: int) -> Any:
    """Return the Transformers configuration of the student.

    teacher_config: the student is of its family and has its vocabulary; without one, a T5 v1.1 whose vocabulary holds
    `vocab_size` tokens, rounded up to a multiple of 64. Raises ConfigError for a shape that cannot be.
    """
    if teacher_config is not None:
        family: Family = family_of(teacher_config)
        return family.with_shape(teacher_config, student_shape(student, family.shape(teacher_config)))
    from transformers import T5Config

    return family_of(T5Config()).new_config(student_shape(student, None), math.ceil(vocab_size / 64) * 64)


def default_relation_heads(student: Shape, teacher: Shape) -> int:
    """The most relation heads, up to the student's attention heads, that both attention widths divide into."""
    common = math.gcd(student.attention_width, teacher.attention_width)
    return max(heads for heads in range(1, student.num_heads + 1) if common % heads == 0)


def check_relation_heads(relation_heads: int, **widths: int) -> None:
    """Raise ConfigError unless `relation_heads` divides the attention width of teacher and student."""
    for who, width in widths.items():
        if width % relation_heads:
            raise ConfigError(
                f"distill.objective.relation_heads {relation_heads} does not divide the {who}'s attention width {width} "
                f"(num_heads × d_kv): set it to a divisor of {math.gcd(*widths.values())}"
            )


def interpolate(teacher: Shape, student: Shape, assistants: int) -> list[Shape]:
    """Return the shapes of `assistants` models between teacher and student, the larger first.

    Each dimension moves geometrically; d_model and d_ff are rounded to multiples of 8, and no dimension leaves the range
    between its two ends.
    """
    shapes = []
    for index in range(1, assistants + 1):
        share = index / (assistants + 1)
        values = {}
        for name in _DIMENSIONS:
            big, small = getattr(teacher, name), getattr(student, name)
            value = math.exp((1 - share) * math.log(big) + share * math.log(small))
            step = 8 if name in ("d_model", "d_ff") and big % 8 == small % 8 == 0 else 1
            values[name] = min(max(round(value / step) * step, min(big, small)), max(big, small))
        shapes.append(Shape(**values))
    return shapes
