"""First weights cut from a teacher: which units stay, and that the rest computes what it did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.bart import Bart
from pipeline.families.t5 import T5
from pipeline.families.units import RESIDUAL, Units
from pipeline.models import ModelDirectory, open_model
from pipeline.models.architecture import Architecture
from pipeline.models.writing import stored_weights
from pipeline.recipe import BlockList, Init, Student
from pipeline.student.blocks import chosen_blocks
from pipeline.student.initial import check_init, write_initial_student
from pipeline.student.shapes import student_architecture
from tests.tiny_models import MODELS, tiny_architecture, tiny_batch, tiny_model

Dead = dict[Units, torch.Tensor]


def batches() -> list[dict[str, torch.Tensor]]:
    return [tiny_batch(seed=1), tiny_batch(seed=2)]


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(**tiny_batch(), use_cache=False).logits


def student_of(teacher: PreTrainedModel, shape: Shape, init: Init, where: Path) -> PreTrainedModel:
    """Write a student of `shape`, and load it as a user would."""
    teacher.save_pretrained(where / "teacher")
    directory = open_model(str(where / "teacher"))
    student = directory.architecture.with_shape(shape)
    write_initial_student(student, init, directory, 1, where / "student", batches)
    model, report = AutoModelForSeq2SeqLM.from_pretrained(
        where / "student", output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


@torch.no_grad()
def zero_units(model: PreTrainedModel, narrow: Shape) -> Dead:
    """Set all weights of random units to zero, and return these units.

    What is left in every module is as wide as `narrow`.
    """
    architecture = Architecture.of(model.config)
    family, shape = architecture.family, architecture.shape
    generator = torch.Generator().manual_seed(3)
    dead: Dead = {}
    for key, weight in stored_weights(model).items():
        for axis, units in enumerate(family.axes(key)):
            if units is None:
                continue
            count = getattr(shape, units.dimension)
            if units not in dead:
                dead[units] = torch.randperm(count, generator=generator)[
                    getattr(narrow, units.dimension) :
                ]
            entries = torch.arange(weight.shape[axis]).reshape(count, -1)
            weight.index_fill_(axis, entries[dead[units]].flatten(), 0.0)
    return dead


@torch.no_grad()
def centre_stream(model: PreTrainedModel, dead: torch.Tensor) -> None:
    """Make the mean of the living features of a BART's residual stream zero everywhere."""
    family = Architecture.of(model.config).family
    for key, weight in stored_weights(model).items():
        axes = family.axes(key)
        if RESIDUAL not in axes or axes[0] not in (None, RESIDUAL):
            continue
        axis = axes.index(RESIDUAL)
        alive = (
            torch.ones(weight.shape[axis], dtype=torch.bool)
            .index_fill(0, dead, False)
            .nonzero()
            .flatten()
        )
        living = weight.index_select(axis, alive)
        centred = living - living.mean(axis, keepdim=True)
        norm = axes == (RESIDUAL,) and key.endswith(".weight")
        weight.index_copy_(axis, alive, torch.full_like(living, 1.3) if norm else centred)


@pytest.mark.parametrize("name", MODELS)
def test_leaving_out_units_that_are_zero_changes_nothing(tmp_path: Path, name: str) -> None:
    teacher = tiny_model(name)
    architecture = tiny_architecture(name)
    shape, bart = architecture.shape, isinstance(architecture.family, Bart)
    narrow = replace(shape, d_ff=40)
    if not name.startswith("marian"):  # its computed positions have no feature that is zero
        narrow = replace(narrow, d_model=2 * shape.d_kv if bart else 40, num_heads=2)
    dead = zero_units(teacher, narrow)
    if bart and narrow.d_model < shape.d_model:
        # A layer norm subtracts the mean, in which a zero counts like any other number.
        centre_stream(teacher, dead[RESIDUAL])
    student = student_of(teacher, narrow, Init(), tmp_path)
    assert Architecture.of(student.config).shape == narrow
    dead = {units: which for units, which in dead.items() if len(which)}
    assert len({tuple(units.tolist()) for units in dead.values()}) >= 7, (
        "other units in every module"
    )
    assert logits(teacher).std(1).mean() > 0.01, "the logits say something"
    # The norms' ε is not rescaled: 1e-6 in a T5, 1e-5 in a BART.
    torch.testing.assert_close(
        logits(student), logits(teacher), rtol=1e-4, atol=3e-4 if bart else 3e-5
    )


@pytest.mark.parametrize("name", ["t5-v1.1", "bart"])
def test_important_units_stay_and_the_same_weights_come_out_again(
    tmp_path: Path, name: str
) -> None:
    teacher = tiny_model(name)
    architecture = tiny_architecture(name)
    family, shape = architecture.family, replace(architecture.shape, encoder_layers=2, d_ff=48)
    with torch.no_grad():
        quiet = {
            key: value
            for key, value in teacher.named_parameters()
            if "d_ff" in {u.dimension for u in family.axes(key) if u}
        }
        for key, weight in quiet.items():
            axis = [
                units is not None and units.dimension == "d_ff" for units in family.axes(key)
            ].index(True)
            weight.index_copy_(
                axis,
                torch.arange(0, 96, 2),
                weight.index_select(axis, torch.arange(0, 96, 2)) * 1e-3,
            )
    student = student_of(teacher, shape, Init(), tmp_path)
    prefix = family.block_prefix("encoder", 1)
    for key, weight in student.named_parameters():
        if key in quiet and key.startswith(prefix) and weight.dim() == 2:
            axis = weight.shape.index(48)
            source = quiet[family.block_prefix("encoder", 3) + key.removeprefix(prefix)]
            assert weight.equal(source.index_select(axis, torch.arange(1, 96, 2))), key
    first = (tmp_path / "student/model.safetensors").read_bytes()
    student_of(teacher, shape, Init(), tmp_path)
    assert (tmp_path / "student/model.safetensors").read_bytes() == first


def test_blocks_are_chosen_first_last_averaged_or_by_hand(tmp_path: Path) -> None:
    assert chosen_blocks("first", "encoder", 12, 3) == [[0], [1], [2]]
    assert chosen_blocks("last", "encoder", 12, 3) == [[9], [10], [11]]
    assert chosen_blocks("average", "decoder", 5, 2) == [[0, 1], [2, 3, 4]]
    by_hand = BlockList(encoder=[0, -1], decoder=[1])
    assert chosen_blocks(by_hand, "encoder", 4, 2) == [[0], [3]]
    teacher = tiny_model("t5-v1.1")
    shape = replace(tiny_architecture("t5-v1.1").shape, encoder_layers=2, decoder_layers=1)
    source = teacher.state_dict()
    wo, bias = (
        "layer.1.DenseReluDense.wo.weight",
        "layer.0.SelfAttention.relative_attention_bias.weight",
    )
    student = student_of(teacher, shape, Init(blocks="average"), tmp_path / "average").state_dict()
    mean = (source[f"encoder.block.2.{wo}"] + source[f"encoder.block.3.{wo}"]) / 2
    torch.testing.assert_close(student[f"encoder.block.1.{wo}"], mean)
    assert student[f"decoder.block.0.{bias}"].equal(source[f"decoder.block.0.{bias}"])
    student = student_of(teacher, shape, Init(blocks=by_hand), tmp_path / "list").state_dict()
    assert student[f"encoder.block.1.{wo}"].equal(source[f"encoder.block.3.{wo}"])


@pytest.mark.parametrize(
    ("init", "change", "words"),
    [
        (Init(), {"d_ff": 128}, "student.d_ff is 128 and the teacher's is 96: .* not added"),
        (Init(), {"d_kv": 8}, "heads are kept or left out whole"),
        (
            Init(blocks="first"),
            {"decoder_layers": 4},
            "4 blocks cannot be copied from a teacher with 3",
        ),
        (
            Init(blocks=BlockList(encoder=[0], decoder=[0, 1, 2])),
            {},
            "encoder lists 1 blocks, and the student has 4",
        ),
        (
            Init(blocks=BlockList(encoder=[0, 1, 2, 4], decoder=[0, 1, 2])),
            {},
            "the teacher has blocks 0 to 3",
        ),
    ],
)
def test_what_cannot_be_cut_from_a_teacher_is_refused(
    init: Init, change: dict[str, int], words: str
) -> None:
    shape = Shape(encoder_layers=4, decoder_layers=3, d_model=64, d_ff=96, num_heads=4, d_kv=16)
    with pytest.raises(ConfigError, match=words):
        check_init(init, replace(shape, **change), shape)


TEACHER = Shape(encoder_layers=4, decoder_layers=4, d_model=64, d_ff=96, num_heads=4, d_kv=16)


def new_t5(shape: Shape) -> Architecture:
    return Architecture.of(T5().new_config(shape, 128))


@pytest.fixture
def teacher(tmp_path: Path) -> ModelDirectory:
    write_initial_student(new_t5(TEACHER), None, None, 0, tmp_path / "teacher")
    return open_model(str(tmp_path / "teacher"))


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
