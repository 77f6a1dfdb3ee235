"""Shapes of students."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from transformers import BartConfig, T5Config

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.t5 import T5
from pipeline.models.architecture import Architecture
from pipeline.recipe import Student
from pipeline.student.chain_shapes import chain_shapes
from pipeline.student.shapes import check_relation_heads, student_architecture, student_shape

PUBLISHED = {
    "t5-base": Architecture.of(
        T5Config(d_model=768, d_ff=3072, num_heads=12, d_kv=64, num_layers=12)
    ),
    "t5-3b": Architecture.of(
        T5Config(d_model=1024, d_ff=16384, num_heads=32, d_kv=128, num_layers=24)
    ),
    "bart-large": Architecture.of(BartConfig()),
}
TEACHER = Shape(encoder_layers=4, decoder_layers=4, d_model=64, d_ff=96, num_heads=4, d_kv=16)


def new_t5(shape: Shape) -> Architecture:
    return Architecture.of(T5().new_config(shape, 128))


@pytest.mark.parametrize("name", ["t5-base", "t5-3b", "bart-large"])
@pytest.mark.parametrize(
    "asked",
    [{"scale": 0.4}, {"scale": 0.05}, {"scale": 0.05, "decoder_layers": 2}, {"params": "60M"}],
)
def test_a_size_gives_a_shape_and_no_automatic_link_is_over_two_and_a_half_to_one(
    name: str, asked: dict[str, Any]
) -> None:
    teacher = PUBLISHED[name]
    sizes = teacher.sizes
    shape = student_shape(Student(**asked), teacher)
    reached = (
        sizes.of(shape).blocks / teacher.size.blocks
        if "scale" in asked
        else sizes.of(shape).total / 60e6
    )
    assert reached == pytest.approx(asked.get("scale", 1.0), rel=0.03)
    assert shape.d_kv == teacher.shape.d_kv
    assert shape.d_model % 32 == shape.d_ff % 32 == 0
    assert shape.decoder_layers == asked.get("decoder_layers", shape.encoder_layers)
    student = teacher.with_shape(shape)
    assert not student.separate_head
    assert sum(weight.numel() for weight in student.empty().parameters()) == sizes.of(shape).total
    shapes = [teacher.shape, *chain_shapes(teacher, shape, "auto")]
    counts = [sizes.of(shape).blocks for shape in shapes]
    links = len(counts) - 1
    assert all(big <= 2.5 * small for big, small in pairwise(counts))
    assert 2.5 ** (links - 1) <= counts[0] / counts[-1] * 1.3, (
        "no more links than it takes, except for rounding"
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"params": "20M", "d_model": 768},
            r"params 20M is 20M parameters, and the nearest shape has .* of them in embeddings",
        ),
        ({"scale": 0.5} | vars(TEACHER), "leaves nothing to choose"),
    ],
)
def test_a_size_no_shape_has_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        student_shape(Student(**asked), PUBLISHED["t5-base"])


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_heads 64 × d_kv 64 = 4096 is more than"):
        student_architecture(Student(d_model=64, num_heads=64), None, 100)
    with pytest.raises(ConfigError, match="does not divide the teacher's attention width 64"):
        check_relation_heads(12, student=48, teacher=64)
