"""The operations of an architecture against those that torch counts on real models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.teacher.tail import cut_tail
from tests.tiny_models import tiny_architecture, tiny_batch, tiny_model


@pytest.fixture(autouse=True)
def _counted_attention() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):  # torch does not count the CPU's fused kernel
        yield


@pytest.mark.parametrize(
    "name", ["t5-v1.0", "t5-v1.1", "umt5", "bart", "pegasus", "marian-two-vocabularies"]
)
@pytest.mark.parametrize("lengths", [(64, 16), (24, 40)])
def test_the_formula_agrees_with_what_torch_counts(name: str, lengths: tuple[int, int]) -> None:
    architecture, model, rows = tiny_architecture(name), tiny_model(name), 2
    batch = tiny_batch(rows, *lengths)
    with FlopCounterMode(display=False) as counter:
        loss = model(**batch).loss
        forward = counter.get_total_flops()
        loss.backward()
    planned = rows * architecture.forward_flops(*lengths).total
    assert planned == pytest.approx(forward, rel=0.02)
    planned = rows * architecture.training_flops(*lengths).total
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_replayed_tail_costs_its_blocks_and_the_head() -> None:
    architecture, cuts = tiny_architecture("t5-v1.1"), (2, 1)
    tail = cut_tail(tiny_model("t5-v1.1"), cuts)
    rows, source, target = 3, 20, 9
    states = {
        "encoder_states": torch.randn(rows, source, 64),
        "decoder_states": torch.randn(rows, target, 64),
    }
    with FlopCounterMode(display=False) as counter:
        replayed = tail.replay(attention_mask=torch.ones(rows, source), **states)
        without = counter.get_total_flops()
        tail.head.logits(replayed.decoder_output)
    planned = rows * architecture.tail_flops(cuts, source, target).total
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.02)
    planned = rows * architecture.tail_flops(cuts, source, target, logits=False).total
    assert planned == pytest.approx(without, rel=0.02)


def test_a_forward_pass_can_end_inside_the_decoder() -> None:
    architecture = tiny_architecture("t5-v1.1")
    whole = architecture.forward_flops(20, 9, logits=False)
    cut = architecture.forward_flops(20, 9, logits=False, decoder_blocks=1)
    assert (cut.encoder, cut.head) == (whole.encoder, 0.0)
    assert 3 * cut.decoder == pytest.approx(whole.decoder)
    assert 3 * cut.cross_attention == pytest.approx(whole.cross_attention)
