"""Shapes and first weights of students."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.t5 import T5
from pipeline.recipe import Student
from pipeline.student.initial import chosen_blocks, write_initial_student
from pipeline.student.shapes import check_relation_heads, interpolate, student_config

TEACHER = Shape(encoder_layers=4, decoder_layers=4, d_model=64, d_ff=96, num_heads=4, d_kv=16)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    write_initial_student(T5().new_config(TEACHER, 128), "random", None, 0, tmp_path / "teacher")
    return tmp_path / "teacher"


def test_blocks_are_evenly_spaced_with_both_ends() -> None:
    assert chosen_blocks(12, 6) == [0, 2, 4, 7, 9, 11]
    assert chosen_blocks(4, 4) == [0, 1, 2, 3]
    assert chosen_blocks(24, 1) == [23]
    with pytest.raises(ConfigError, match="cannot be copied"):
        chosen_blocks(2, 3)


def test_copying_every_block_reproduces_the_teacher(teacher: Path, tmp_path: Path) -> None:
    config = student_config(Student(), AutoModelForSeq2SeqLM.from_pretrained(teacher).config, 100)
    write_initial_student(config, "layers", teacher, 1, tmp_path / "student")
    old, new = load_file(teacher / "model.safetensors"), load_file(tmp_path / "student" / "model.safetensors")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_chosen_blocks_move_and_the_position_bias_stays(teacher: Path, tmp_path: Path) -> None:
    spec = Student(encoder_layers=2, decoder_layers=1)
    config = student_config(spec, AutoModelForSeq2SeqLM.from_pretrained(teacher).config, 100)
    write_initial_student(config, "layers", teacher, 1, tmp_path / "student")
    old, new = load_file(teacher / "model.safetensors"), load_file(tmp_path / "student" / "model.safetensors")
    q, bias = "layer.0.SelfAttention.q.weight", "layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(new[f"encoder.block.1.{q}"], old[f"encoder.block.3.{q}"])
    assert torch.equal(new[f"decoder.block.0.{q}"], old[f"decoder.block.3.{q}"])
    assert torch.equal(new[f"decoder.block.0.{bias}"], old[f"decoder.block.0.{bias}"])


def test_random_weights_follow_the_seed_and_start_near_the_uniform_loss(tmp_path: Path) -> None:
    config = student_config(Student(encoder_layers=1, decoder_layers=1, d_model=64, d_ff=96, num_heads=2), None, 8100)
    assert config.vocab_size == 8128, "rounded up to a multiple of 64"
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_initial_student(config, "random", None, seed, tmp_path / name)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "a")
    ids = torch.arange(3, 35).reshape(2, 16)
    assert float(model(input_ids=ids, labels=ids).loss.detach()) == pytest.approx(
        torch.tensor(8128.0).log().item(), abs=1.5
    )


def test_assistants_lie_between_teacher_and_student() -> None:
    student = Shape(encoder_layers=1, decoder_layers=1, d_model=32, d_ff=48, num_heads=2, d_kv=16)
    shapes = interpolate(TEACHER, student, 2)
    sizes = [TEACHER, *shapes, student]
    for name in vars(TEACHER):
        values = [getattr(shape, name) for shape in sizes]
        assert values == sorted(values, reverse=True), name
    assert interpolate(TEACHER, TEACHER, 1) == [TEACHER]


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_heads 64 × d_kv 64 = 4096 is more than"):
        student_config(Student(d_model=64, num_heads=64), None, 100)
    with pytest.raises(ConfigError, match="does not divide the teacher's attention width 64"):
        check_relation_heads(12, student=48, teacher=64)
