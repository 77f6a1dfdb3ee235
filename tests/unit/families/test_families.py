"""Every family: students made of a teacher's blocks, their directories, their shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.base import Stack
from pipeline.models import open_model
from pipeline.models.architecture import Architecture
from pipeline.models.writing import stored_weights, write_model
from pipeline.recipe import Init, Optimisation
from pipeline.student.blocks import chosen_blocks
from pipeline.student.initial import write_initial_student
from pipeline.training.engine import gather_weights, load_model
from tests.tiny_models import MODELS, tiny_architecture, tiny_batch, tiny_model

STACKS: tuple[Stack, ...] = ("encoder", "decoder")


def _saved(model: PreTrainedModel, directory: Path) -> Path:
    """Write a model as the hub has it: by Transformers."""
    model.save_pretrained(directory)
    return directory


def _loaded(directory: Path) -> PreTrainedModel:
    """Load as a user would, and check that nothing was missing or left over."""
    model, report = AutoModelForSeq2SeqLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@torch.no_grad()
def _logits(model: PreTrainedModel) -> torch.Tensor:
    return model(**tiny_batch(), use_cache=False).logits


def _student_of(directory: Path, layers: tuple[int, int], student: Path) -> PreTrainedModel:
    """Write a student with this many blocks of the teacher in `directory`, and load it."""
    teacher = open_model(str(directory))
    encoder_layers, decoder_layers = layers
    shape = replace(
        teacher.architecture.shape, encoder_layers=encoder_layers, decoder_layers=decoder_layers
    )
    write_initial_student(teacher.architecture.with_shape(shape), Init(), teacher, 1, student)
    return _loaded(student)


@pytest.mark.parametrize("name", MODELS)
def test_a_student_of_all_blocks_is_its_teacher(tmp_path: Path, name: str) -> None:
    teacher = tiny_model(name)
    directory = _saved(teacher, tmp_path / "teacher")
    student = _student_of(directory, (4, 3), tmp_path / "student")
    assert _logits(student).equal(_logits(teacher))


@pytest.mark.parametrize("name", MODELS)
def test_a_half_depth_student_has_its_teachers_blocks(tmp_path: Path, name: str) -> None:
    teacher = tiny_model(name)
    family = tiny_architecture(name).family
    student = _student_of(_saved(teacher, tmp_path / "t"), (2, 2), tmp_path / "s")
    source, target = teacher.state_dict(), student.state_dict()
    in_blocks = set()
    for stack in STACKS:
        for index, (block,) in enumerate(
            chosen_blocks("uniform", stack, len(family.blocks(teacher, stack)), 2)
        ):
            prefix = family.block_prefix(stack, index)
            for key in (key for key in target if key.startswith(prefix)):
                rest = key.removeprefix(prefix)
                in_blocks.add(key)
                # T5 and mT5 share block 0's position bias; a umT5 block brings its own.
                shared = "relative_attention_bias" in rest and teacher.config.model_type != "umt5"
                assert target[key].equal(
                    source[family.block_prefix(stack, 0 if shared else block) + rest]
                ), key
    assert in_blocks
    assert all(target[key].equal(source[key]) for key in target.keys() - in_blocks)
    assert (student.lm_head.weight is student.get_input_embeddings().weight) == (
        teacher.lm_head.weight is teacher.get_input_embeddings().weight
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_random_student_is_reproducible_and_loads_as_made(tmp_path: Path, name: str) -> None:
    for directory in ("a", "b"):
        write_initial_student(tiny_architecture(name, (1, 1)), None, None, 5, tmp_path / directory)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (
        tmp_path / "b/model.safetensors"
    ).read_bytes()
    logits = _logits(_loaded(tmp_path / "a"))
    assert 0.01 < logits.std() < 2, "the loss starts near ln(vocabulary)"


@pytest.mark.parametrize("name", MODELS)
def test_training_loads_and_writes_what_transformers_does(tmp_path: Path, name: str) -> None:
    teacher = tiny_model(name)
    directory = _saved(teacher, tmp_path / "teacher")
    settings = Optimisation(
        dtype="float32", batch_size=1, deepspeed="ds_configs/zero2_finetune.json"
    )
    trained = load_model(open_model(str(directory)), settings).eval()
    assert _logits(trained).equal(_logits(teacher))
    write_model(tmp_path / "hf", trained.config, dict(gather_weights(trained)))
    assert _logits(_loaded(tmp_path / "hf")).equal(_logits(teacher))


def test_training_loads_files_as_from_pretrained_does(tmp_path: Path) -> None:
    """The hub may hold a BART without its head's prefix, a Marian without computed positions."""
    bart, marian = tiny_model("bart"), tiny_model("marian")
    marian.save_pretrained(tmp_path / "marian")
    with safe_open(tmp_path / "marian/model.safetensors", framework="pt") as file:
        assert "model.encoder.embed_positions.weight" not in file.keys()  # noqa: SIM118
    with torch.no_grad():
        bart.final_logits_bias.zero_()  # such a file has none
    bart.model.save_pretrained(tmp_path / "bart")
    config = json.loads((tmp_path / "bart/config.json").read_text())
    (tmp_path / "bart/config.json").write_text(
        json.dumps(config | {"architectures": ["BartModel"]})
    )
    weights = load_file(tmp_path / "bart/model.safetensors")
    save_file(
        weights | {"encoder.version": torch.zeros(1)},
        tmp_path / "bart/model.safetensors",
        {"format": "pt"},
    )
    assert "shared.weight" in weights
    settings = Optimisation(
        dtype="float32", batch_size=1, deepspeed="ds_configs/zero2_finetune.json"
    )
    for model in (bart, marian):
        trained = load_model(open_model(str(tmp_path / model.config.model_type)), settings).eval()
        assert _logits(trained).equal(_logits(model))


@pytest.mark.parametrize("name", MODELS)
def test_generation_begins_and_ends_where_the_configuration_says(tmp_path: Path, name: str) -> None:
    model = tiny_model(name)
    write_model(tmp_path / "hf", model.config, stored_weights(model))
    generation = _loaded(tmp_path / "hf").generation_config
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "forced_eos_token_id"):
        assert getattr(generation, key) == getattr(model.config, key, None)
    labels = torch.tensor([[5, 6, model.config.eos_token_id, -100]])
    trained_from = model.prepare_decoder_input_ids_from_labels(labels=labels)[0, 0]
    assert generation.decoder_start_token_id == trained_from


@pytest.mark.parametrize("name", MODELS)
def test_a_shape_survives_the_configuration(name: str) -> None:
    architecture = tiny_architecture(name)
    shape = Shape(encoder_layers=5, decoder_layers=2, d_model=48, d_ff=80, num_heads=6, d_kv=8)
    changed = architecture.with_shape(shape)
    assert changed.shape == shape
    unchanged = Architecture.of(architecture.config)
    assert unchanged.shape != shape, "the original is left alone"
    parameters = AutoModelForSeq2SeqLM.from_config(changed.config).state_dict()
    projection = changed.family.block_prefix("encoder", 4) + _FIRST_PROJECTION[changed.model_type]
    assert parameters[projection].shape == (48, 48)


_T5_Q, _BART_Q = "layer.0.SelfAttention.q.weight", "self_attn.q_proj.weight"
_FIRST_PROJECTION = {
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5_Q),
    **dict.fromkeys(("bart", "mbart", "pegasus", "marian"), _BART_Q),
}


def test_shapes_that_cannot_be_say_what_to_change() -> None:
    bart = tiny_architecture("bart")
    shape = bart.shape
    with pytest.raises(
        ConfigError, match=r"d_kv 8 with num_heads 4 and d_model 64: .* set d_kv to 16"
    ):
        bart.with_shape(replace(shape, d_kv=8))
    with pytest.raises(
        ConfigError, match=r"d_model 66 must be even and a multiple of student\.num_heads 4"
    ):
        bart.with_shape(replace(shape, d_model=66))
    bart.config.decoder_ffn_dim = 128
    with pytest.raises(
        ConfigError, match="encoder_ffn_dim 96 and decoder_ffn_dim 128 of this bart differ"
    ):
        bart.family.shape(bart.config)
    with pytest.raises(ConfigError, match="a bart is not made from nothing"):
        bart.family.new_config(shape, 320)


def test_t5_11bs_wide_heads_are_refused_to_a_new_student_only() -> None:
    teacher = tiny_architecture("t5-v1.0", num_heads=32, d_kv=32)
    shape = teacher.shape
    assert shape.attention_width > 4 * shape.d_model
    assert teacher.with_shape(replace(shape, encoder_layers=1)).config.num_layers == 1
    with pytest.raises(ConfigError, match="more than 4 × d_model"):
        teacher.with_shape(replace(shape, num_heads=16, d_kv=32))


def test_positions_limit_the_length() -> None:
    tiny_architecture("t5-v1.1").check_length(4096, "tokens.input_length")
    tiny_architecture("bart").check_length(96, "tokens.input_length")
    with pytest.raises(ConfigError, match=r"tokens\.input_length 97: a bart .* 96 positions"):
        tiny_architecture("bart").check_length(97, "tokens.input_length")


def test_float16_is_refused_where_it_overflows() -> None:
    tiny_architecture("t5-v1.1").check_dtype("bfloat16", "distill.dtype")
    tiny_architecture("bart").check_dtype("float16", "distill.dtype")
    with pytest.raises(ConfigError, match=r"distill\.dtype float16: .* of t5 overflow in it"):
        tiny_architecture("t5-v1.1").check_dtype("float16", "distill.dtype")
