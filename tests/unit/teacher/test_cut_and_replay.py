"""Cut and replay on real models of every family: a replay gives the teacher's exact numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig

from pipeline.errors import ConfigError
from pipeline.models.architecture import Architecture
from pipeline.teacher.capture import capture
from pipeline.teacher.cuts import resolve_cut
from pipeline.teacher.fidelity import replay_fidelity
from pipeline.teacher.loaded import WholeTeacher
from pipeline.teacher.tail import cut_tail, load_tail, save_tail
from tests.tiny_models import MODELS, tiny_architecture, tiny_batch, tiny_model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("cuts", [(3, 2), (1, 2), (2, 0), (0, 0)], ids=str)
def test_replay_is_exact_at_any_cut(
    tmp_path: Path, name: str, dtype: torch.dtype, cuts: tuple[int, int]
) -> None:
    teacher, batch = tiny_model(name, dtype), tiny_batch()
    family = tiny_architecture(name).family
    captured = capture(teacher, family, cuts, batch)
    states = captured.encoder_states, captured.decoder_states
    save_tail(teacher, cuts, tmp_path / "tail")
    tail = load_tail(tmp_path / "tail", torch.device("cpu"))
    assert type(tail.model) is type(teacher)
    found = replay_fidelity(WholeTeacher(teacher, cuts), tail, cuts, batch, *states)
    exact = {"max": 0.0, "mean": 0.0}
    assert found["replay_error"] == dict.fromkeys(
        ("logits", "encoder_self", "decoder_self", "cross"), exact
    )
    assert found["replay_kl"] == 0.0
    with torch.no_grad():
        live = teacher(**batch, use_cache=False)
    replayed = tail.replay(states[1], batch["attention_mask"], encoder_states=states[0])
    assert replayed.encoder_output.equal(live.encoder_last_hidden_state)
    # Stacks and head taken apart do what the whole model does.
    assert tail.head.logits(replayed.decoder_output).equal(live.logits)
    from_output = tail.replay(
        states[1], batch["attention_mask"], encoder_output=captured.encoder_output
    )
    assert from_output.decoder_output.equal(replayed.decoder_output)
    noted = [value for row in found["label_log_probs"] for value in row]
    assert -sum(noted) / len(noted) == pytest.approx(
        float(live.loss), rel=2e-2 if dtype == torch.bfloat16 else 1e-4
    )


@pytest.mark.parametrize("name", ["t5-v1.1", "umt5", "bart", "mbart", "pegasus", "marian"])
def test_a_wrong_state_shows(name: str) -> None:
    teacher, batch = tiny_model(name), tiny_batch()
    family, cuts = tiny_architecture(name).family, (3, 2)
    captured, tail = capture(teacher, family, cuts, batch), cut_tail(teacher, cuts)
    rolled = captured.decoder_states.roll(1, dims=1)
    found = replay_fidelity(
        WholeTeacher(teacher, cuts), tail, cuts, batch, captured.encoder_states, rolled
    )
    shifted = {attention: error["max"] for attention, error in found["replay_error"].items()}
    assert shifted["encoder_self"] == 0.0
    assert min(shifted["logits"], shifted["decoder_self"], shifted["cross"]) > 0.01
    assert found["replay_kl"] > 0.0


@pytest.mark.parametrize("name", MODELS)
def test_the_tail_holds_only_what_comes_after_the_cut(tmp_path: Path, name: str) -> None:
    teacher = tiny_model(name)
    family = tiny_architecture(name).family
    save_tail(teacher, (3, 2), tmp_path / "tail")
    kept = load_file(tmp_path / "tail/model.safetensors")
    blocks = tuple(family.block_prefix(stack, 0) for stack in ("encoder", "decoder"))
    in_blocks = sum(value.numel() for key, value in kept.items() if key.startswith(blocks))
    last = [family.blocks(teacher, stack)[-1] for stack in ("encoder", "decoder")]
    # The position biases of block 0, which all blocks use.
    biases = 2 * 32 * 4 if teacher.config.model_type in ("t5", "mt5") else 0
    assert in_blocks == sum(p.numel() for block in last for p in block.parameters()) + biases
    vocabulary, width = teacher.lm_head.weight.shape
    large = {
        key: value.numel()
        for key, value in kept.items()
        if not key.startswith(blocks) and value.numel() > width
    }
    assert large.pop("lm_head.weight") == vocabulary * width
    assert large.pop("final_logits_bias", vocabulary) == vocabulary
    assert not large, "norms are one width wide, and of the embeddings nothing is kept"


def test_an_unsupported_model_and_a_cut_that_is_not_there() -> None:
    with pytest.raises(
        ConfigError,
        match="'bert' is not supported; supported: bart, marian, mbart, mt5, pegasus, t5, umt5",
    ):
        Architecture.of(BertConfig())
    assert resolve_cut(-1, 12, "encoder_cut") == 11
    with pytest.raises(ConfigError, match=r"cache\.encoder_cut 12: .*blocks 0 to 11"):
        resolve_cut(12, 12, "encoder_cut")
