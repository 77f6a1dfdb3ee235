"""Cut and replay on a real T5: what is replayed from the cached states is what the teacher computes, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, BertConfig, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Shape, family_of
from pipeline.families.t5 import T5
from pipeline.teacher.capture import capture, resolve_cut
from pipeline.teacher.fidelity import replay_fidelity
from pipeline.teacher.tail import cut_tail, load_tail, save_tail


def _teacher(dtype: torch.dtype, *, tied: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    config = T5().new_config(
        Shape(encoder_layers=4, decoder_layers=3, d_model=64, d_ff=96, num_heads=4, d_kv=24), vocab_size=320
    )
    config.scale_decoder_outputs = tied
    model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    T5().initialise(model)
    assert (model.lm_head.weight is model.shared.weight) == tied
    for stack in (model.encoder, model.decoder):
        # As drawn, the bias is so small that forgetting it would hardly show.
        torch.nn.init.normal_(stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    return model.to(dtype).eval()


def _batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    batch = {"input_ids": torch.randint(3, 300, (3, 20)), "labels": torch.randint(3, 300, (3, 9))}
    batch["input_ids"][1, 12:] = 0
    batch["labels"][2, 5:] = -100
    return batch | {"attention_mask": (batch["input_ids"] != 0).long()}


@pytest.mark.parametrize("tied", [False, True], ids=["t5-v1.1", "t5-v1.0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cuts", [(3, 2), (1, 1), (0, 0)], ids=str)
def test_replay_is_exact_at_any_cut(tmp_path: Path, cuts: tuple[int, int], dtype: torch.dtype, tied: bool) -> None:
    teacher, batch = _teacher(dtype, tied=tied), _batch()
    captured = capture(teacher, T5(), cuts, batch)
    save_tail(teacher, cuts, tmp_path / "tail")
    tail = load_tail(tmp_path / "tail", torch.device("cpu"))
    states = captured.encoder_states, captured.decoder_states
    found = replay_fidelity(teacher, T5(), tail, cuts, batch, *states)
    exact = {"max": 0.0, "mean": 0.0}
    assert found["replay_error"] == dict.fromkeys(("logits", "encoder_self", "decoder_self", "cross"), exact)
    assert found["replay_kl"] == 0.0
    # Head and stacks taken apart do what the whole model does.
    with torch.no_grad():
        whole = teacher(**batch, use_cache=False)
    replayed = tail.replay(states[1], batch["attention_mask"], encoder_states=states[0])
    assert torch.equal(tail.head.logits(replayed.decoder_output), whole.logits)
    noted = [value for row in found["label_log_probs"] for value in row]
    assert -sum(noted) / len(noted) == pytest.approx(float(whole.loss), rel=1e-2 if dtype == torch.bfloat16 else 1e-4)


def test_a_wrong_state_shows(tmp_path: Path) -> None:
    teacher, batch = _teacher(torch.float32, tied=False), _batch()
    captured, tail = capture(teacher, T5(), (3, 2), batch), cut_tail(teacher, (3, 2))
    rolled = captured.decoder_states.roll(1, dims=1)
    found = replay_fidelity(teacher, T5(), tail, (3, 2), batch, captured.encoder_states, rolled)
    shifted = {name: error["max"] for name, error in found["replay_error"].items()}
    assert shifted["encoder_self"] == 0.0
    assert min(shifted["logits"], shifted["decoder_self"], shifted["cross"]) > 0.01
    assert found["replay_kl"] > 0.0


def test_the_tail_holds_only_what_comes_after_the_cut(tmp_path: Path) -> None:
    teacher = _teacher(torch.float32, tied=False)
    save_tail(teacher, (3, 2), tmp_path / "tail")
    kept = sum(parameter.numel() for parameter in load_tail(tmp_path / "tail", torch.device("cpu")).model.parameters())
    last_blocks = sum(
        p.numel() for block in (teacher.encoder.block[-1], teacher.decoder.block[-1]) for p in block.parameters()
    )
    biases = 2 * 32 * 4
    assert kept == last_blocks + biases + teacher.lm_head.weight.numel() + (2 + 3) * 64, (
        "norms and one row per embedding"
    )


def test_an_unsupported_model_and_a_cut_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="'bert' is not supported; supported: t5"):
        family_of(BertConfig())
    assert resolve_cut(-1, 12, "encoder_cut") == 11
    with pytest.raises(ConfigError, match=r"cache\.encoder_cut 12: .*blocks 0 to 11"):
        resolve_cut(12, 12, "encoder_cut")
