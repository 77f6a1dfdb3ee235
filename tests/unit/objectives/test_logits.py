"""Divergences, sparse targets and the LM loss against plain float64 forms."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pipeline.objectives.divergence import Divergence, Kind
from pipeline.objectives.joint import sampled_kl_and_lm
from pipeline.objectives.logits import divergence, lm_loss, sampled_kl, taid_target, topk_kl

F64 = torch.float64
KINDS = get_args(Kind)
MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])
LABELS = torch.tensor([[0, -100, 2], [3, 4, -100]])


def randn(*shape: int, seed: int, scale: float = 1.0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=F64) * scale).requires_grad_(grad)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def reference(
    s: Tensor, t: Tensor, mask: Tensor | None, kind: str, tau: float, alpha: float
) -> Tensor:
    p, q = (t / tau).softmax(-1), (s / tau).softmax(-1)
    rows = {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jensen_shannon": lambda: (
            alpha * kl(p, alpha * p + (1 - alpha) * q)
            + (1 - alpha) * kl(q, alpha * p + (1 - alpha) * q)
        ),
        "skew_kl": lambda: kl(p, alpha * p + (1 - alpha) * q),
        "skew_reverse_kl": lambda: kl(q, (1 - alpha) * p + alpha * q),
    }[kind]()
    return tau**2 * (rows if mask is None else rows[mask.bool()]).mean()


def same(ours: Tensor, plain: Tensor, *inputs: Tensor) -> None:
    """Values and all gradients agree to 1e-9, and there is something to compare."""
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9)
    for mine, theirs in zip(
        torch.autograd.grad(ours * 1.7, inputs),
        torch.autograd.grad(plain * 1.7, inputs),
        strict=True,
    ):
        assert theirs.abs().max() > 1e-4
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("mask", [None, MASK], ids=["full", "masked"])
def test_divergence_agrees_with_its_formula(kind: Kind, tau: float, mask: Tensor | None) -> None:
    s, t = randn(2, 3, 11, seed=1, scale=2, grad=True), randn(2, 3, 11, seed=2, scale=2)
    ours = divergence(s, t, mask, Divergence(kind, 0.3, tau))
    same(ours, reference(s, t, mask, kind, tau, 0.3), s)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_gradcheck(kind: Kind) -> None:
    s, t = randn(2, 3, 7, seed=1, grad=True), randn(2, 3, 7, seed=2)
    assert torch.autograd.gradcheck(
        lambda s: divergence(s, t, MASK, Divergence(kind, temperature=1.7)), (s,)
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 20.0), tau=st.floats(0.5, 4.0))
def test_divergence_is_positive_and_zero_iff_equal(
    kind: Kind, seed: int, scale: float, tau: float
) -> None:
    settings = Divergence(kind, temperature=tau)
    s, t = randn(4, 9, seed=seed, scale=scale), randn(4, 9, seed=seed + 1, scale=scale)
    assert abs(divergence(t, t, None, settings).item()) < 1e-14 * tau**2
    assert divergence(s, t, None, settings).item() > 1e-7
    shifted = divergence(t + 3.0, t, None, settings)  # the same distribution
    assert abs(shifted.item()) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_huge_bf16_logits_stay_finite(kind: Kind) -> None:
    s = (randn(5, 64, seed=1).sign() * 1e4).bfloat16().requires_grad_()
    t = (randn(5, 64, seed=2).sign() * 1e4).bfloat16()
    loss = divergence(s, t, None, Divergence(kind))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 0.1
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert s.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_masked_positions_are_not_read(kind: Kind) -> None:
    s, t = randn(2, 3, 7, seed=1), randn(2, 3, 7, seed=2)
    clean = divergence(s, t, MASK, Divergence(kind))
    s[MASK == 0], t[MASK == 0] = float("nan"), float("inf")
    s.requires_grad_()
    dirty = divergence(s, t, MASK, Divergence(kind))
    dirty.backward()
    assert dirty == clean
    assert s.grad is not None
    assert (s.grad[MASK == 0] == 0).all()
    assert (s.grad[MASK == 1] != 0).any()


def test_nothing_valid_is_zero() -> None:
    s, t = randn(2, 3, 7, seed=1, grad=True), randn(2, 3, 7, seed=2)
    none, ignored = torch.zeros(2, 3), torch.full((2, 3), -100)
    ids, counts = torch.zeros(2, 3, 2, dtype=torch.long), torch.zeros(2, 3, 2)
    loss = divergence(s, t, none) + lm_loss(s, ignored) + sampled_kl(s, ids, counts)
    loss.backward()
    assert loss.item() == 0.0
    assert s.grad is not None
    assert (s.grad == 0).all()


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    """With the factor tau^2 the soft gradient tends to (s - t) / V at any high temperature."""
    s, t = randn(1, 8, seed=1, grad=True), randn(1, 8, seed=2)
    hot = divergence(s, t, None, Divergence(temperature=1e4))
    (gradient,) = torch.autograd.grad(hot, s)
    limit = (s - s.mean()) - (t - t.mean())
    torch.testing.assert_close(gradient, limit.detach() / 8, rtol=1e-3, atol=1e-4)


def test_alpha_and_kind_are_checked() -> None:
    s = randn(1, 4, seed=1)
    for wrong in (
        {"kind": "js"},
        {"kind": "jensen_shannon", "alpha": 1.0},
        {"kind": "skew_kl", "alpha": 1.0},
        {"temperature": 0.0},
    ):
        with pytest.raises(ValueError, match=r"js|alpha|temperature"):
            Divergence(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="teacher's share"):
        divergence(s, s, target_share=1.5)
    with pytest.raises(ValueError, match="student and teacher logits differ"):
        divergence(s, s[:, :3])
    with pytest.raises(ValueError, match="mask has shape"):
        divergence(s, s, torch.ones(2))


@pytest.mark.parametrize("kind", ["skew_kl", "skew_reverse_kl"])
def test_skew_at_zero_is_the_plain_kl(kind: Kind) -> None:
    s, t = randn(3, 6, seed=1, grad=True), randn(3, 6, seed=2)
    plain = Divergence("forward_kl" if kind == "skew_kl" else "reverse_kl")
    skewed = Divergence(kind, alpha=0.0)
    same(divergence(s, t, None, skewed), divergence(s, t, None, plain), s)


@pytest.mark.usefixtures("chunks")
def test_lm_loss_is_cross_entropy() -> None:
    s = randn(2, 3, 7, seed=1, scale=3, grad=True)
    same(lm_loss(s, LABELS), F.cross_entropy(s.view(-1, 7), LABELS.view(-1)), s)
    assert lm_loss(s.bfloat16(), LABELS).dtype == torch.float32


@pytest.mark.usefixtures("chunks")
def test_taid_moves_from_student_to_teacher() -> None:
    s, t = randn(2, 3, 7, seed=1, grad=True), randn(2, 3, 7, seed=2)
    same(
        divergence(s, t, MASK, Divergence(temperature=2.0), target_share=0.4),
        reference(s, 0.6 * s.detach() + 0.4 * t, MASK, "forward_kl", 2.0, 0),
        s,
    )
    assert divergence(s, t, target_share=0.0).item() == 0.0
    torch.testing.assert_close(taid_target(s, t, 1.0), t)
    assert not taid_target(s, t, 0.5).requires_grad


IDS = torch.tensor([[0, 3, 5], [1, 2, 0], [4, 5, 6], [1, 6, 2], [2, 0, 3], [5, 3, 1]]).view(2, 3, 3)
COUNTS = torch.tensor([[3, 1, 0], [1, 1, 1], [5, 2, 2], [1, 0, 0], [2, 1, 4], [0, 3, 3]]).view(
    2, 3, 3
)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_sampled_kl_is_the_kl_to_the_empirical_distribution(tau: float) -> None:
    s = randn(2, 3, 7, seed=1, scale=2, grad=True)
    p = torch.zeros(2, 3, 7, dtype=F64).scatter_(
        -1, IDS, COUNTS / COUNTS.sum(-1, keepdim=True).double()
    )
    log_q = (s / tau).log_softmax(-1)
    plain = tau**2 * (torch.xlogy(p, p) - p * log_q).sum(-1)[MASK.bool()].mean()
    same(sampled_kl(s, IDS, COUNTS, MASK, temperature=tau), plain, s)
    assert torch.autograd.gradcheck(
        lambda s: sampled_kl(s, IDS, COUNTS, MASK, temperature=tau), (s,)
    )


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("labels", [LABELS, LABELS.clamp(min=0)], ids=["some", "all"])
@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "one-row-without-draws"])
def test_sampled_kl_and_lm_in_one_pass_are_the_two(labels: Tensor, drawn: bool) -> None:
    s = randn(2, 3, 7, seed=1, scale=2, grad=True)
    counts = COUNTS if drawn else COUNTS * torch.tensor([[0, 1, 1], [1, 1, 1]]).unsqueeze(-1)
    for kl_weight, lm_weight in ((1.0, 0.0), (0.0, 1.0), (0.7, 1.9)):
        kl_value, lm = sampled_kl_and_lm(s, IDS, counts, labels)
        plain = sampled_kl(s, IDS, counts, labels != -100), lm_loss(s, labels)
        same(kl_weight * kl_value + lm_weight * lm, kl_weight * plain[0] + lm_weight * plain[1], s)
    assert torch.autograd.gradcheck(lambda s: sampled_kl_and_lm(s, IDS, counts, labels), (s,))


def test_sampled_kl_and_lm_is_finite_where_logits_are_huge_and_reads_no_other_position() -> None:
    s = (randn(2, 3, 7, seed=1).sign() * 1e4).bfloat16()
    s[LABELS == -100] = float("nan")
    s.requires_grad_()
    kl_value, lm = sampled_kl_and_lm(s, IDS, COUNTS, LABELS)
    (kl_value + lm).backward()
    assert kl_value.dtype == lm.dtype == torch.float32
    assert s.grad is not None
    assert torch.stack([kl_value, lm]).isfinite().all()
    assert s.grad.isfinite().all()
    assert (s.grad[LABELS == -100] == 0).all()
    nothing = sampled_kl_and_lm(s, IDS, COUNTS, torch.full_like(LABELS, -100))
    assert [value.item() for value in nothing] == [0.0, 0.0]


def test_sampled_kl_with_entropy_is_unbiased() -> None:
    """Averaged over draws, value and gradient are those of the full KL; top-k's gradient is not."""
    vocabulary, draws, repeats = 6, 4, 40_000
    s, t = randn(1, vocabulary, seed=1, grad=True), randn(1, vocabulary, seed=2)
    p = t.softmax(-1)
    generator = torch.Generator().manual_seed(0)
    samples = torch.multinomial(p.expand(repeats, -1), draws, replacement=True, generator=generator)
    counts = F.one_hot(samples, vocabulary).sum(1)
    ids = torch.arange(vocabulary).expand(repeats, -1)
    entropy = torch.special.entr(p).sum(-1).expand(repeats)
    sampled = sampled_kl(s.expand(repeats, -1), ids, counts, entropy=entropy)
    exact = divergence(s, t)
    biased = sampled_kl(s.expand(repeats, -1), ids, counts)
    (ours,), (full,) = torch.autograd.grad(sampled, s), torch.autograd.grad(exact, s)
    assert abs(sampled - exact) < 0.01
    assert abs(biased - exact) > 0.1
    torch.testing.assert_close(ours, full, rtol=0, atol=0.005)
    top = p.topk(2)
    (cut,) = torch.autograd.grad(topk_kl(s, top.indices, top.values, tail=False), s)
    assert (cut - full).abs().max() > 0.05


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_topk_with_tail_is_the_kl_of_k_plus_one_outcomes(tau: float) -> None:
    s, t = randn(2, 3, 9, seed=1, scale=2, grad=True), randn(2, 3, 9, seed=2, scale=2)
    top = (t / tau).softmax(-1).topk(3)
    assert torch.autograd.gradcheck(
        lambda s: topk_kl(s, top.indices, top.values, MASK, temperature=tau), (s,)
    )
    for tail in (True, False):
        p, q = top.values, (s / tau).softmax(-1).gather(-1, top.indices)
        if tail:
            p, q = (torch.cat([x, 1 - x.sum(-1, keepdim=True)], -1) for x in (p, q))
        plain = tau**2 * kl(p / p.sum(-1, keepdim=True), q)[MASK.bool()].mean()
        same(topk_kl(s, top.indices, top.values, MASK, temperature=tau, tail=tail), plain, s)


def test_topk_of_everything_is_the_full_kl() -> None:
    s, t = randn(4, 5, seed=1, grad=True), randn(4, 5, seed=2)
    top = t.softmax(-1).topk(5)
    same(topk_kl(s, top.indices, top.values), divergence(s, t), s)


def test_topk_stays_finite_when_student_and_teacher_leave_no_tail() -> None:
    s = torch.tensor([[1e4, -1e4, -1e4, -1e4]], dtype=torch.bfloat16, requires_grad=True)
    for p in ([1.0], [0.9]):
        loss = topk_kl(s, torch.tensor([[0]]), torch.tensor([p]))
        (gradient,) = torch.autograd.grad(loss, s)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    assert loss > 1000  # a tenth of the mass, 20,000 nats away
