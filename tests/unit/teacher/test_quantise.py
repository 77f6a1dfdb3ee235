"""int8 states: the stated error bound, and why scales alone are not enough for a residual stream
with outliers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ArtifactError, CorruptArtifact
from pipeline.families import Shape
from pipeline.families.t5 import T5
from pipeline.teacher.capture import capture
from pipeline.teacher.quantise import GROUP_SIZE, OUTLIERS, dequantise, quantise
from pipeline.teacher.tail import cut_tail

CUTS = (2, 2)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 40),
    group=st.integers(1, 48),
    apart=st.integers(0, 3),
    exponent=st.integers(-140, 127),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_no_number_is_off_by_more_than_half_its_scale(
    width: int, group: int, apart: int, exponent: int, dtype: torch.dtype, seed: int
) -> None:
    apart = min(apart, width)
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(3, 2, width, generator=generator, dtype=torch.float64)
    states[:, :, ::7] *= 1000
    states = (states * 2.0**exponent).clamp(-3.38e38, 3.38e38).to(dtype)
    states[1, 1] = 0
    stored = quantise(states, group, apart)
    assert [part.shape for part in stored] == [
        states.shape,
        (3, 2, -(-width // group)),
        (3, 2, apart),
    ]
    assert [part.dtype for part in stored] == [torch.int8, torch.bfloat16, torch.bfloat16]
    marked = stored.values == -128  # any more of them would be clipped or wrapped numbers
    assert (marked.sum(-1) == apart).all()
    read = dequantise(stored, torch.float32, group)
    error = (read.double() - states.double()).abs()
    scales = stored.scales.double().repeat_interleave(group, dim=-1)[..., :width]
    assert (
        error <= torch.where(marked, states.double().abs() * 2**-8 + 1e-40, scales / 2) * (1 + 1e-6)
    ).all()
    left = (
        F.pad(states.double().abs().masked_fill(marked, 0), (0, -width % group))
        .unflatten(-1, (-1, group))
        .amax(-1)
    )
    assert (stored.scales.double() <= (left / 127 * (1 + 2**-7)).clamp(min=1.2e-38)).all()
    assert (read[1, 1] == 0).all()
    assert dequantise(stored, torch.bfloat16, group).isfinite().all()


def test_the_end_of_the_range_stays_finite() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        largest = torch.finfo(dtype).max
        states = torch.tensor([[largest, -largest, largest, 1.0, 0.0]], dtype=dtype)
        for apart in (0, 2):
            read = dequantise(quantise(states, 5, apart), dtype, 5)
            assert read.isfinite().all()
            torch.testing.assert_close(read[0, :3], states[0, :3], rtol=0.01, atol=0)


def test_what_is_kept_apart_is_exact_in_bfloat16_and_the_largest() -> None:
    states = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    read = dequantise(quantise(states, 16, 6), torch.bfloat16, 16)
    where = states.abs().topk(6).indices
    assert torch.equal(read.gather(-1, where), states.gather(-1, where))
    assert not torch.equal(read, states)
    # All of them kept apart: nothing is lost.
    assert torch.equal(dequantise(quantise(states, 16, 40), torch.bfloat16, 16), states)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(wrong: float) -> None:
    states = torch.ones(2, 8)
    states[1, 5] = wrong
    with pytest.raises(ArtifactError, match="not finite: check its weights"):
        quantise(states, 4)


def test_what_does_not_fit_is_refused() -> None:
    stored = quantise(torch.ones(2, 12), 4, 2)
    with pytest.raises(ValueError, match=r"scales \(2, 3\) do not fit"):
        dequantise(stored, torch.float32, 8)
    with pytest.raises(CorruptArtifact, match="4 states are marked as outliers, but 2 are stored"):
        dequantise(stored._replace(outliers=stored.outliers[:, :1]), torch.float32, 4)
    with pytest.raises(ValueError, match="group_size"):
        quantise(torch.ones(2, 12), 0)
    with pytest.raises(ValueError, match="outliers 13"):
        quantise(torch.ones(2, 12), 4, 13)


def test_outlier_dimensions_spoil_scales_a_row_and_a_group_unless_kept_apart() -> None:
    """KL of replayed from live logits, in nats, of an entropy of 4.2: a scale a row 2.0, scales a
    group 1.7, apart 9e-5."""
    teacher, batch = _teacher_with_outliers(), _batch()
    captured = capture(teacher, T5(), CUTS, batch)
    states = captured.encoder_states, captured.decoder_states
    for stack in states:
        assert stack.abs().amax((0, 1)).topk(4).values.min() > 1000 * stack.abs().median()
    row = _replay_kl(teacher, batch, states, group=256, apart=0)
    group = _replay_kl(teacher, batch, states, group=64, apart=0)
    apart = _replay_kl(teacher, batch, states, group=GROUP_SIZE, apart=OUTLIERS)
    assert row > group > 1.0
    assert apart < 3e-4


def _replay_kl(
    teacher: PreTrainedModel,
    batch: dict[str, Tensor],
    states: tuple[Tensor, Tensor],
    *,
    group: int,
    apart: int,
) -> float:
    with torch.inference_mode():
        live = teacher(**batch).logits.log_softmax(-1)
        read = [dequantise(quantise(s, group, apart), torch.float32, group) for s in states]
        tail = cut_tail(teacher, CUTS)
        replayed = tail.replay(read[1], batch["attention_mask"], encoder_states=read[0])
        logits = tail.head.logits(replayed.decoder_output)
    kl = F.kl_div(logits.log_softmax(-1), live, log_target=True, reduction="none").sum(-1)
    return kl[batch["labels"] != -100].mean().item()


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, 500, (4, 32), generator=generator)
    labels = torch.randint(3, 500, (4, 16), generator=generator)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


def _teacher_with_outliers() -> PreTrainedModel:
    """A T5 whose residual stream has four dimensions 1000 times as large as the rest, which its
    norms scale back.

    That is how trained T5s look: norm weights are small where the stream is large, so all
    dimensions matter.
    """
    torch.manual_seed(0)
    shape = Shape(encoder_layers=3, decoder_layers=3, d_model=256, d_ff=256, num_heads=4, d_kv=64)
    model = AutoModelForSeq2SeqLM.from_config(T5().new_config(shape, vocab_size=500))
    T5().initialise(model)
    model.lm_head.weight.data *= 2.0
    scale = torch.ones(256)
    scale[[3, 70, 141, 222]] = 1000.0
    model.shared.weight.data *= scale
    # A norm divides by the root mean square, which the four dimensions now decide: 1000 * sqrt(4 /
    # 256) times the old.
    back = 1000.0 * (4 / 256) ** 0.5 / scale
    for name, parameter in model.named_parameters():
        if name.endswith(
            ("SelfAttention.o.weight", "EncDecAttention.o.weight", "DenseReluDense.wo.weight")
        ):
            parameter.data *= scale[:, None]
        elif "norm" in name:
            parameter.data *= back
    return model.eval()
