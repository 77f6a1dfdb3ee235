"""Losses through the head, without a tensor of all logits, against plain float64 forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.objectives.divergence import Divergence, Kind
from pipeline.objectives.head import LossWeights, Predictor, head_divergence
from tests.unit.objectives.test_logits import KINDS, LABELS, MASK, randn, reference, same


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 1.5])
@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("weights", [None, LossWeights(0.15, 1.0)], ids=["recomputed", "at-once"])
def test_head_agrees_with_full_logits(
    kind: Kind, tau: float, share: float, weights: LossWeights | None
) -> None:
    h, w, b = (
        randn(2, 3, 4, seed=1, grad=True),
        randn(9, 4, seed=2, grad=True),
        randn(9, seed=3, grad=True),
    )
    th, tw, tb = randn(2, 3, 5, seed=4), randn(9, 5, seed=5), randn(9, seed=6)
    div, lm = head_divergence(
        Predictor(h, w, 0.7, b),
        Predictor(th, tw, 0.5, tb),
        Divergence(kind, 0.3, tau),
        mask=MASK,
        labels=LABELS,
        target_share=share,
        weights=weights,
    )
    s = h @ w.T * 0.7 + b
    target = (1 - share) * s.detach() + share * (th @ tw.T * 0.5 + tb)
    plain_div = reference(s, target, MASK, kind, tau, 0.3)
    plain_lm = F.cross_entropy(s.view(-1, 9), LABELS.view(-1))
    torch.testing.assert_close(div, plain_div, rtol=0, atol=1e-9)
    same(0.3 * div + 2 * lm, 0.3 * plain_div + 2 * plain_lm, h, w, b)


@pytest.mark.parametrize("kind", KINDS)
def test_head_gradcheck(kind: Kind) -> None:
    h, w = randn(2, 2, 3, seed=1, grad=True), randn(5, 3, seed=2, grad=True)
    th, tw = randn(2, 2, 4, seed=3), randn(5, 4, seed=4)
    labels = torch.tensor([[1, -100], [4, 0]])

    def both(h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        settings = Divergence(kind, temperature=1.3)
        return head_divergence(Predictor(h, w), Predictor(th, tw), settings, labels=labels)

    assert torch.autograd.gradcheck(both, (h, w))


def test_head_refuses_losses_weighted_otherwise_than_promised() -> None:
    h, w = randn(2, 3, 4, seed=1, grad=True), randn(9, 4, seed=2, grad=True)
    student, teacher = Predictor(h, w), Predictor(randn(2, 3, 4, seed=3), w)
    weights = LossWeights(divergence=1.0, lm=0.5)
    div, lm = head_divergence(student, teacher, labels=LABELS, weights=weights)
    with pytest.raises(RuntimeError, match="no multiple of the promised"):
        (div + lm).backward()


@pytest.mark.parametrize("weights", [None, LossWeights(1.0, 1.0)], ids=["recomputed", "at-once"])
def test_head_reads_no_masked_position_and_only_needed_gradients(
    weights: LossWeights | None,
) -> None:
    h, w = randn(2, 3, 4, seed=1), randn(9, 4, seed=2)
    th, tw = randn(2, 3, 5, seed=3), randn(9, 5, seed=4)
    w.requires_grad_(weights is not None)
    student, teacher = Predictor(h, w), Predictor(th, tw)
    clean = head_divergence(student, teacher, mask=MASK, labels=LABELS, weights=weights)
    unread = (MASK == 0) & (LABELS == -100)
    h[unread], th[MASK == 0] = float("nan"), float("nan")
    # The masks complement each other at one place: there the LM loss reads a position whose teacher
    # state is garbage.
    assert ((MASK == 0) & (LABELS != -100)).any()
    h.requires_grad_()
    dirty = head_divergence(student, teacher, mask=MASK, labels=LABELS, weights=weights)
    assert dirty[0] == clean[0]
    assert dirty[1] == clean[1]
    (dirty[0] + dirty[1]).backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    assert (w.grad is None) == (weights is None)


def test_head_with_nothing_valid_is_zero_with_zero_gradients() -> None:
    h, w = randn(3, 4, seed=1, grad=True), randn(9, 4, seed=2, grad=True)
    for weights in (None, LossWeights(1.0, 1.0)):
        div, lm = head_divergence(
            Predictor(h, w),
            Predictor(h.detach(), w),
            mask=torch.zeros(3),
            labels=torch.full((3,), -100),
            weights=weights,
        )
        assert (div.item(), lm.item()) == (0.0, 0.0)
        gradients = torch.autograd.grad(div + lm, (h, w))
        assert all((gradient == 0).all() for gradient in gradients)


def test_head_without_labels_has_no_lm_loss() -> None:
    h, w = randn(3, 4, seed=1, grad=True), randn(9, 4, seed=2)
    div, lm = head_divergence(Predictor(h, w), Predictor(randn(3, 4, seed=3), w))
    assert lm.item() == 0.0
    assert div.item() > 0.0
    same(div, reference(h @ w.T, randn(3, 4, seed=3) @ w.T, None, "forward_kl", 1.0, 0), h)


def test_head_in_bf16_is_near_float64_and_finite_when_huge() -> None:
    h, w = randn(64, 32, seed=1), randn(500, 32, seed=2, scale=0.3)
    th, tw = randn(64, 48, seed=3), randn(500, 48, seed=4, scale=0.3)
    exact = head_divergence(Predictor(h, w), Predictor(th, tw))[0]
    hb, wb = h.bfloat16().requires_grad_(), w.bfloat16().requires_grad_()
    ours = head_divergence(Predictor(hb, wb), Predictor(th.bfloat16(), tw.bfloat16()))[0]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=2e-2, atol=0)
    huge = head_divergence(
        Predictor(hb.sign() * 1e4, wb),
        Predictor(th.bfloat16() * 1e4, tw.bfloat16()),
        labels=torch.arange(64),
    )
    sum(huge).backward()
    for x in (*huge, hb.grad, wb.grad):
        assert x is not None
        assert x.isfinite().all()
    assert math.isfinite(huge[0].item())


def test_head_errors_are_named() -> None:
    h, w = randn(3, 4, seed=1), randn(9, 4, seed=2)
    with pytest.raises(ValueError, match="vocabularies differ: student 9, teacher 8"):
        head_divergence(Predictor(h, w), Predictor(h, w[:8]))
    with pytest.raises(ValueError, match=r"student's hidden states .* do not fit its head"):
        head_divergence(Predictor(h, w[:, :3]), Predictor(h, w))
    with pytest.raises(ValueError, match="differ in positions"):
        head_divergence(Predictor(h, w), Predictor(h[:2], w))
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="labels"):
        head_divergence(Predictor(h, w), Predictor(h, w), labels=labels)
