"""A student's shape: what the recipe says, completed from the teacher, checked before anything runs."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.families import Family, Shape, family_of
from pipeline.models.size import Sizes
from pipeline.recipe import ModelShape
from pipeline.student.scaling import nearest_to, scaled, stretched

#: What a model made from nothing looks like where the recipe is silent: T5 v1.1 small.
DEFAULT = Shape(encoder_layers=8, decoder_layers=8, d_model=512, d_ff=1024, num_heads=6, d_kv=64)
DIMENSIONS = tuple(asdict(DEFAULT))
#: How far, as a share, the size of the nearest shape may be from the size asked for.
TOLERANCE = 0.1


def student_shape(
    asked: ModelShape, teacher_config: Any | None, separate_head: bool | None = None
) -> Shape:
    """Complete what the recipe says of a shape from the teacher's configuration, or from T5 v1.1 small without one.

    separate_head: whether the LM head has weights of its own (for `params`); what is published of the family when None.
    Raises ConfigError for a size that no shape has.
    """
    config = teacher_config if teacher_config is not None else _new_config(DEFAULT, 32128)
    family: Family = family_of(config)
    teacher = family.shape(config)
    given = {name: value for name in DIMENSIONS if (value := getattr(asked, name)) is not None}
    given |= family.implied(given, given.get("d_kv", teacher.d_kv))
    if asked.scale is None and asked.params is None:
        return replace(teacher, **given)
    sizes = Sizes(config, separate_head)
    if asked.scale is not None:
        target, what = asked.scale * sizes.of(teacher).blocks, f"scale {asked.scale:g}"
    else:
        assert asked.params is not None
        target, what = float(asked.params), f"params {short(asked.params)}"

    def measured(shape: Shape) -> int:
        return sizes.of(shape).blocks if asked.scale is not None else sizes.of(shape).total

    free = [name for name in DIMENSIONS if name not in given and name != "d_kv"]
    if not free:
        raise ConfigError(
            f"student.{what} leaves nothing to choose, since every dimension is given: drop it, or a dimension"
        )
    found = nearest_to(target, scaled(replace(teacher, **given), free, family), measured)
    if found is not None and "d_ff" in free:
        found = nearest_to(target, stretched(found, family), measured)
    if found is None:
        raise ConfigError(
            f"student.{what}: no shape of a {config.model_type} has {', '.join(f'{k} {v}' for k, v in given.items())}"
        )
    size = sizes.of(found)
    if abs(measured(found) / target - 1) > TOLERANCE:
        raise ConfigError(
            f"student.{what} is {short(target)} parameters, and the nearest shape has {short(measured(found))} "
            f"({describe(found)}; {short(size.embeddings)} {'of them' if asked.scale is None else 'besides'} in embeddings): "
            "ask for another size, or give the dimensions"
        )
    return found


def student_config(
    student: ModelShape,
    teacher_config: Any | None,
    vocab_size: int,
    separate_head: bool | None = None,
) -> Any:
    """Return the Transformers configuration of the student.

    teacher_config: the student is of its family and has its vocabulary; without one, a T5 v1.1 whose vocabulary holds
    `vocab_size` tokens, rounded up to a multiple of 64. Raises ConfigError for a shape that cannot be.
    """
    if teacher_config is None:
        teacher_config = _new_config(DEFAULT, math.ceil(vocab_size / 64) * 64)
        shape = student_shape(student, teacher_config)
    else:
        shape = student_shape(student, teacher_config, separate_head)
    return family_of(teacher_config).with_shape(teacher_config, shape)


def describe(shape: Shape) -> str:
    """Return a shape in one line: 6+6 blocks, d_model 512, d_ff 1024, 8 heads of 64."""
    return (
        f"{shape.encoder_layers}+{shape.decoder_layers} blocks, d_model {shape.d_model}, d_ff {shape.d_ff}, "
        f"{shape.num_heads} heads of {shape.d_kv}"
    )


def short(count: float) -> str:
    """Return a number of parameters as models are named: 60.5M, 1.5B."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:.0f}"


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


def _new_config(shape: Shape, vocab_size: int) -> Any:
    from transformers import T5Config

    return family_of(T5Config()).new_config(shape, vocab_size)
