"""The formula of `pipeline.models.flops` against what torch counts on real models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.families import family_of
from pipeline.models.flops import forward_flops, tail_flops, training_flops
from pipeline.teacher.tail import cut_tail
from tests.tiny_models import tiny_batch, tiny_model


@pytest.fixture(autouse=True)
def _counted_attention() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):  # torch does not count the CPU's fused kernel
        yield


@pytest.mark.parametrize(
    "name", ["t5-v1.0", "t5-v1.1", "umt5", "bart", "pegasus", "marian-two-vocabularies"]
)
@pytest.mark.parametrize("lengths", [(64, 16), (24, 40)])
def test_the_formula_agrees_with_what_torch_counts(name: str, lengths: tuple[int, int]) -> None:
    model = tiny_model(name)
    family = family_of(model.config)
    shape, rows = family.shape(model.config), 2
    settings = {"vocab_size": family.head_size(model.config), "gated": family.gated(model.config)}
    batch = tiny_batch(rows, *lengths)
    with FlopCounterMode(display=False) as counter:
        loss = model(**batch).loss
        forward = counter.get_total_flops()
        loss.backward()
    assert rows * forward_flops(shape, *lengths, **settings).total == pytest.approx(
        forward, rel=0.02
    )
    assert rows * training_flops(shape, *lengths, **settings).total == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )


def test_a_replayed_tail_costs_its_blocks_and_the_head() -> None:
    teacher = tiny_model("t5-v1.1")
    family, cuts = family_of(teacher.config), (2, 1)
    tail = cut_tail(teacher, cuts)
    rows, source, target = 3, 20, 9
    states = {
        "encoder_states": torch.randn(rows, source, 64),
        "decoder_states": torch.randn(rows, target, 64),
    }
    with FlopCounterMode(display=False) as counter:
        replayed = tail.replay(attention_mask=torch.ones(rows, source), **states)
        without = counter.get_total_flops()
        tail.head.logits(replayed.decoder_output)
    shape, settings = (
        family.shape(teacher.config),
        {"vocab_size": family.head_size(teacher.config), "gated": True},
    )
    whole = tail_flops(shape, cuts, source, target, **settings)
    assert rows * whole.total == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert rows * tail_flops(
        shape, cuts, source, target, **settings, logits=False
    ).total == pytest.approx(without, rel=0.02)
