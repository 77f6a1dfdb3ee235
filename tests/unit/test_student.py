"""Shapes and first weights of students."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.t5 import T5
from pipeline.models import ModelDirectory, open_model
from pipeline.models.architecture import Architecture
from pipeline.recipe import Assistant, Init, Student
from pipeline.student.blocks import chosen_blocks
from pipeline.student.chain_shapes import chain_shapes
from pipeline.student.initial import write_initial_student
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


@pytest.fixture
def teacher(tmp_path: Path) -> ModelDirectory:
    write_initial_student(new_t5(TEACHER), None, None, 0, tmp_path / "teacher")
    return open_model(str(tmp_path / "teacher"))


def test_blocks_are_evenly_spaced_with_both_ends() -> None:
    assert chosen_blocks("uniform", "encoder", 12, 6) == [[0], [2], [4], [7], [9], [11]]
    assert chosen_blocks("uniform", "encoder", 4, 4) == [[0], [1], [2], [3]]
    assert chosen_blocks("uniform", "decoder", 24, 1) == [[23]]
    with pytest.raises(ConfigError, match="cannot be copied"):
        chosen_blocks("uniform", "encoder", 2, 3)


def test_copying_every_block_reproduces_the_teacher(
    teacher: ModelDirectory, tmp_path: Path
) -> None:
    student = student_architecture(Student(), teacher.architecture, 100)
    write_initial_student(student, Init(), teacher, 1, tmp_path / "student")
    old = load_file(teacher.path / "model.safetensors")
    new = load_file(tmp_path / "student" / "model.safetensors")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_chosen_blocks_move_and_the_position_bias_stays(
    teacher: ModelDirectory, tmp_path: Path
) -> None:
    spec = Student(encoder_layers=2, decoder_layers=1)
    student = student_architecture(spec, teacher.architecture, 100)
    write_initial_student(student, Init(), teacher, 1, tmp_path / "student")
    old = load_file(teacher.path / "model.safetensors")
    new = load_file(tmp_path / "student" / "model.safetensors")
    q = "layer.0.SelfAttention.q.weight"
    bias = "layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(new[f"encoder.block.1.{q}"], old[f"encoder.block.3.{q}"])
    assert torch.equal(new[f"decoder.block.0.{q}"], old[f"decoder.block.3.{q}"])
    assert torch.equal(new[f"decoder.block.0.{bias}"], old[f"decoder.block.0.{bias}"])


def test_random_weights_follow_the_seed_and_start_near_the_uniform_loss(tmp_path: Path) -> None:
    student = student_architecture(
        Student(encoder_layers=1, decoder_layers=1, d_model=64, d_ff=96, num_heads=2), None, 8100
    )
    assert student.vocab_size == 8128, "rounded up to a multiple of 64"
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_initial_student(student, None, None, seed, tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "a")
    ids = torch.arange(3, 35).reshape(2, 16)
    assert float(model(input_ids=ids, labels=ids).loss.detach()) == pytest.approx(
        torch.tensor(8128.0).log().item(), abs=1.5
    )


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
