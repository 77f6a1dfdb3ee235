"""Shapes of the assistants between teacher and student."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.t5 import T5
from pipeline.models.architecture import Architecture
from pipeline.recipe import Assistant
from pipeline.student.chain_shapes import chain_shapes

TEACHER = Shape(encoder_layers=4, decoder_layers=4, d_model=64, d_ff=96, num_heads=4, d_kv=16)


def new_t5(shape: Shape) -> Architecture:
    return Architecture.of(T5().new_config(shape, 128))


def test_assistants_lie_between_teacher_and_student() -> None:
    teacher = new_t5(TEACHER)
    student = Shape(encoder_layers=1, decoder_layers=1, d_model=32, d_ff=48, num_heads=2, d_kv=16)
    shapes = [TEACHER, *chain_shapes(teacher, student, 2)]
    assert shapes[-1] == student
    for name in vars(TEACHER):
        values = [getattr(shape, name) for shape in shapes]
        assert values == sorted(values, reverse=True), name
    assert chain_shapes(teacher, TEACHER, 1) == [TEACHER, TEACHER]
    by_hand = [
        Assistant(encoder_layers=3, decoder_layers=2),
        Assistant(encoder_layers=2, decoder_layers=2),
    ]
    assert [shape.encoder_layers for shape in chain_shapes(teacher, student, by_hand)] == [3, 2, 1]

    coarse = Shape(encoder_layers=1, decoder_layers=1, d_model=16, d_ff=16, num_heads=1, d_kv=8)
    with pytest.raises(ConfigError, match=r"no chain .* within 2.5:1, .* list the assistants"):
        chain_shapes(new_t5(coarse), replace(coarse, d_model=8, d_ff=8), "auto")
