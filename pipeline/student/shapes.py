"""A student's shape: the recipe's, completed from the teacher and checked before anything runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.t5 import T5
from pipeline.models.architecture import Architecture
from pipeline.recipe import ModelShape
from pipeline.student.scaling import nearest_to, scaled, stretched

#: The shape of a model made from nothing, where the recipe gives none: T5 v1.1 small.
DEFAULT = Shape(encoder_layers=8, decoder_layers=8, d_model=512, d_ff=1024, num_heads=6, d_kv=64)
DIMENSIONS = tuple(asdict(DEFAULT))
#: How far, as a share, the size of the nearest shape may be from the size asked for.
TOLERANCE = 0.1


def student_shape(asked: ModelShape, teacher: Architecture | None) -> Shape:
    """Complete the recipe's shape from the teacher's, or from T5 v1.1 small without a teacher.

    Raises ConfigError for a size that no shape has.
    """
    model = teacher if teacher is not None else _new(32128)
    given = {name: value for name in DIMENSIONS if (value := getattr(asked, name)) is not None}
    given |= model.family.implied(given, given.get("d_kv", model.shape.d_kv))
    if asked.scale is None and asked.params is None:
        return replace(model.shape, **given)
    return _nearest_shape(_Goal.of(asked, model), given, model)


def student_architecture(
    asked: ModelShape, teacher: Architecture | None, vocab_size: int
) -> Architecture:
    """Return the architecture of the student.

    With a teacher, the student has its family, its vocabulary and its kind of LM head. Without one,
    it is a T5 v1.1 whose vocabulary holds `vocab_size` tokens, rounded up to a multiple of 64.
    Raises ConfigError for a shape that cannot be.
    """
    model = teacher if teacher is not None else _new(math.ceil(vocab_size / 64) * 64)
    return model.with_shape(student_shape(asked, model))


def describe(shape: Shape) -> str:
    """Return a shape in one line: 6+6 blocks, d_model 512, d_ff 1024, 8 heads of 64."""
    return (
        f"{shape.encoder_layers}+{shape.decoder_layers} blocks, d_model {shape.d_model}, "
        f"d_ff {shape.d_ff}, {shape.num_heads} heads of {shape.d_kv}"
    )


def short(count: float) -> str:
    """Return a number of parameters as models are named: 60.5M, 1.5B."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:.0f}"


def default_relation_heads(student: Shape, teacher: Shape) -> int:
    """Return the default number of relation heads.

    It is the largest number, up to the student's attention heads, that divides both attention
    widths.
    """
    common = math.gcd(student.attention_width, teacher.attention_width)
    return max(heads for heads in range(1, student.num_heads + 1) if common % heads == 0)


def check_relation_heads(relation_heads: int, **widths: int) -> None:
    """Raise ConfigError unless `relation_heads` divides the attention widths of all models.

    widths: by model, such as student and teacher.
    """
    for model, width in widths.items():
        if width % relation_heads:
            raise ConfigError(
                f"distill.objective.relation_heads {relation_heads} does not divide the {model}'s "
                f"attention width {width} (num_heads × d_kv): "
                f"set it to a divisor of {math.gcd(*widths.values())}"
            )


@dataclass(frozen=True)
class _Goal:
    """A number of parameters that a shape is to have."""

    parameters: float
    #: As the recipe says it, such as "scale 0.5".
    text: str
    #: Whether embeddings count.
    embeddings: bool
    model: Architecture

    @classmethod
    def of(cls, asked: ModelShape, model: Architecture) -> _Goal:
        if asked.scale is not None:
            return cls(asked.scale * model.size.blocks, f"scale {asked.scale:g}", False, model)
        assert asked.params is not None
        return cls(float(asked.params), f"params {short(asked.params)}", True, model)

    def count(self, shape: Shape) -> int:
        """Return the parameters of a shape that the goal counts."""
        size = self.model.sizes.of(shape)
        return size.total if self.embeddings else size.blocks


def _nearest_shape(goal: _Goal, given: dict[str, int], model: Architecture) -> Shape:
    """Return the shape nearest to the goal that has the dimensions `given`."""
    free = [name for name in DIMENSIONS if name not in given and name != "d_kv"]
    if not free:
        raise ConfigError(
            f"student.{goal.text} leaves nothing to choose, since every dimension is given: "
            "drop it, or a dimension"
        )
    candidates = scaled(replace(model.shape, **given), free, model.family)
    nearest = nearest_to(goal.parameters, candidates, goal.count)
    if nearest is not None and "d_ff" in free:
        nearest = nearest_to(goal.parameters, stretched(nearest, model.family), goal.count)
    if nearest is None:
        dimensions = ", ".join(f"{name} {value}" for name, value in given.items())
        raise ConfigError(f"student.{goal.text}: no shape of a {model.model_type} has {dimensions}")
    if abs(goal.count(nearest) / goal.parameters - 1) > TOLERANCE:
        embeddings = short(model.sizes.of(nearest).embeddings)
        raise ConfigError(
            f"student.{goal.text} is {short(goal.parameters)} parameters, and the nearest shape "
            f"has {short(goal.count(nearest))} ({describe(nearest)}; "
            f"{embeddings} {'of them' if goal.embeddings else 'more'} in embeddings): "
            "ask for another size, or give the dimensions"
        )
    return nearest


def _new(vocab_size: int) -> Architecture:
    return Architecture.of(T5().new_config(DEFAULT, vocab_size))
