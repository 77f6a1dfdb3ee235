"""The blocks of teacher and student that an objective compares, and the check of their shapes."""

from __future__ import annotations

from typing import Literal

from pipeline.distillation.objective import part_weights
from pipeline.errors import ConfigError
from pipeline.families import Attention, Shape
from pipeline.families.base import Stack
from pipeline.families.recorder import BlockInput
from pipeline.objectives import presets
from pipeline.recipe import HiddenPair, Objective
from pipeline.student.shapes import check_relation_heads, default_relation_heads

#: The parts of a model to record: the block of each attention, and block inputs.
Places = tuple[dict[Attention, int], list[BlockInput]]


def student_places(objective: Objective) -> Places:
    """Return the blocks of the student to record."""
    blocks = objective.blocks
    return _places(objective, blocks.student_encoder, blocks.student_decoder, "student")


def teacher_places(objective: Objective, default: int) -> Places:
    """Return the blocks of the teacher to record. default: the block if the recipe names none."""
    blocks = objective.blocks
    encoder = default if blocks.teacher_encoder is None else blocks.teacher_encoder
    decoder = default if blocks.teacher_decoder is None else blocks.teacher_decoder
    return _places(objective, encoder, decoder, "teacher")


def watched_blocks(objective: Objective) -> set[tuple[Stack, int]]:
    """Return the student's blocks (stack, index from the end) whose q, k and v are recorded."""
    blocks, _ = student_places(objective)
    return {(stack_of(attention), block) for attention, block in blocks.items()}


def looks_at_encoder_blocks(objective: Objective) -> bool:
    """Return whether a part compares anything of the teacher's encoder except its output."""
    blocks, inputs = teacher_places(objective, -1)
    return "encoder_self" in blocks or any(place.stack == "encoder" for place in inputs)


def stack_of(attention: Attention) -> Stack:
    """Return the stack whose blocks hold an attention."""
    return "encoder" if attention == "encoder_self" else "decoder"


def check_objective(objective: Objective, student: Shape, teacher: Shape) -> None:
    """Raise ConfigError for shapes that a part of the objective cannot compare.

    teacher: a shape whose layers are those that can be replayed.
    """
    weights = part_weights(objective)
    if any(part.endswith("_relations") for part in weights):
        heads = objective.relation_heads or default_relation_heads(student, teacher)
        check_relation_heads(
            heads, student=student.attention_width, teacher=teacher.attention_width
        )
    compares_attention = any(part.endswith("_attention") for part in weights)
    if compares_attention and student.num_heads != teacher.num_heads:
        raise ConfigError(
            "the objective's attention parts need the same number of heads, but the student has "
            f"{student.num_heads} and the teacher {teacher.num_heads}: use the relation parts, or "
            f"set student.num_heads={teacher.num_heads}"
        )
    for name, block, layers in _named_blocks(objective, student, teacher):
        if block is not None and -block > layers:
            hint = " (a deeper cut caches more of the teacher)" if "teacher" in name else ""
            raise ConfigError(
                f"distill.objective.{name} is {block}, but there are {layers} blocks{hint}"
            )


def _named_blocks(
    objective: Objective, student: Shape, teacher: Shape
) -> list[tuple[str, int | None, int]]:
    """Return each block that the objective names: (key, block from the end, number of blocks)."""
    blocks = objective.blocks
    named: list[tuple[str, int | None, int]] = [
        ("blocks.teacher_encoder", blocks.teacher_encoder, teacher.encoder_layers),
        ("blocks.teacher_decoder", blocks.teacher_decoder, teacher.decoder_layers),
        ("blocks.student_encoder", blocks.student_encoder, student.encoder_layers),
        ("blocks.student_decoder", blocks.student_decoder, student.decoder_layers),
    ]
    for index, pair in enumerate(_hidden_pairs(objective)):
        for model, shape in (("teacher", teacher), ("student", student)):
            layers = shape.encoder_layers if pair.stack == "encoder" else shape.decoder_layers
            block = getattr(pair, model)
            named.append((f"hidden.{index}.{model}", None if block == "output" else block, layers))
    return named


def _places(
    objective: Objective, encoder: int, decoder: int, model: Literal["teacher", "student"]
) -> Places:
    weights = part_weights(objective)
    # In the order of the parts, not of a set: what a plan measures must not depend on hash seeds.
    attentions = [presets.ATTENTION_OF[part] for part in weights if part in presets.ATTENTION_OF]
    blocks = {
        attention: encoder if stack_of(attention) == "encoder" else decoder
        for attention in attentions
    }
    hidden = [(pair.stack, getattr(pair, model)) for pair in _hidden_pairs(objective)]
    return blocks, [BlockInput(stack, block) for stack, block in hidden if block != "output"]


def _hidden_pairs(objective: Objective) -> list[HiddenPair]:
    return objective.hidden if "hidden" in part_weights(objective) else []
