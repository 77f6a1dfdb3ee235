"""Relations against a plain float64 form, and what must hold for any input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.objectives import relations
from pipeline.objectives.relations import relation_loss, relations_loss
from pipeline.objectives.scratch import chunks_of

F64 = torch.float64


def randn(*shape: int, seed: int, scale: float = 1.0, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=F64) * scale).requires_grad_(grad)


def reference(
    teacher: tuple[Tensor, Tensor],
    student: tuple[Tensor, Tensor],
    heads: int,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """MiniLMv2's loss row by row, as the paper writes it: only allowed keys are ever looked at."""
    batch, rows, columns = student[0].shape[0], student[0].shape[1], student[1].shape[1]
    sequences = []
    for i in range(batch):
        kls = []
        for row in range(rows):
            keys = [
                j
                for j in range(columns)
                if (key_mask is None or key_mask[i, j]) and (not causal or j <= row)
            ]
            if not keys or (query_mask is not None and not query_mask[i, row]):
                continue
            per_head = []
            for h in range(heads):
                logs = []
                for a, b in (teacher, student):
                    d = a.shape[2] // heads
                    part = slice(h * d, (h + 1) * d)
                    logs.append(
                        torch.log_softmax(b[i, keys, part] @ a[i, row, part] / math.sqrt(d), -1)
                    )
                log_p, log_q = logs
                per_head.append((log_p.exp() * (log_p - log_q)).sum())
            kls.append(torch.stack(per_head).mean())
        if kls:
            sequences.append(torch.stack(kls).mean())
    return torch.stack(sequences).mean() if sequences else torch.zeros((), dtype=F64)


QUERY_MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
KEY_MASK = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pair", ["qk", "qq"])
@pytest.mark.parametrize("budget", [1, 30, 1 << 21])
def test_value_and_gradient_agree_with_the_paper_form(
    monkeypatch: pytest.MonkeyPatch, causal: bool, masked: bool, pair: str, budget: int
) -> None:
    monkeypatch.setattr(relations, "CAUSAL_ROWS", 2)
    teacher = (randn(3, 5, 12, seed=1), randn(3, 5, 12, seed=2))
    results = []
    for ours in (True, False):
        a, b = randn(3, 5, 6, seed=3, grad=True), randn(3, 5, 6, seed=4, grad=True)
        t, s = (teacher, (a, b)) if pair == "qk" else ((teacher[0], teacher[0]), (a, a))
        masks = (QUERY_MASK, KEY_MASK) if masked else (None, None)
        if ours:
            with chunks_of(budget):
                loss = relation_loss(
                    t, s, relation_heads=3, query_mask=masks[0], key_mask=masks[1], causal=causal
                )
        else:
            loss = reference(t, s, 3, *masks, causal)
        (loss * 1.7).backward()
        results.append((loss.detach(), a.grad, b.grad))
    assert results[0][0] > 0.01
    for ours, plain in zip(*results, strict=True):
        if plain is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9)


def test_cross_lengths_agree_with_the_paper_form() -> None:
    teacher = (randn(2, 3, 8, seed=1), randn(2, 5, 8, seed=2))
    student = (randn(2, 3, 4, seed=3), randn(2, 5, 4, seed=4))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    ours = relation_loss(teacher, student, relation_heads=2, key_mask=mask)
    torch.testing.assert_close(ours, reference(teacher, student, 2, None, mask), rtol=0, atol=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_gradcheck(causal: bool) -> None:
    ta, tb = randn(2, 4, 6, seed=1), randn(2, 4, 6, seed=2)
    a, b = randn(2, 4, 4, seed=3, grad=True), randn(2, 4, 4, seed=4, grad=True)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return relation_loss(
            (ta, tb), (a, b), relation_heads=2, key_mask=KEY_MASK[:2, :4], causal=causal
        )

    with chunks_of(40):
        assert torch.autograd.gradcheck(loss, (a, b))


def test_only_one_side_may_need_a_gradient() -> None:
    ta, a, b = randn(1, 3, 4, seed=1), randn(1, 3, 4, seed=2, grad=True), randn(1, 3, 4, seed=3)
    relation_loss((ta, ta), (a, b), relation_heads=2).backward()
    assert a.grad is not None
    assert b.grad is None


def test_no_gradient_reaches_the_teacher() -> None:
    ta, a = randn(1, 3, 4, seed=1, grad=True), randn(1, 3, 4, seed=2, grad=True)
    relation_loss((ta, ta), (a, a), relation_heads=2).backward()
    assert ta.grad is None


@pytest.mark.parametrize("causal", [False, True])
def test_huge_bf16_inputs_stay_finite(causal: bool) -> None:
    signs = randn(2, 6, 8, seed=1).sign() * 1e4
    a = (randn(2, 6, 8, seed=2).sign() * 1e4).bfloat16().requires_grad_()
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    loss = relation_loss(
        (signs.bfloat16(),) * 2, (a, a), relation_heads=2, key_mask=mask, causal=causal
    )
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 1e6  # the models disagree by more than any epsilon would have let through
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_fp16_products_do_not_overflow() -> None:
    t = torch.full((1, 2, 4), 1e4, dtype=torch.float16)
    s = torch.tensor([[[1e4] * 4, [-1e4] * 4]], dtype=torch.float16, requires_grad=True)
    loss = relation_loss((t, t), (s, s), relation_heads=1)
    loss.backward()
    assert loss.isfinite()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_all_rows_masked_is_zero_with_zero_gradient() -> None:
    t, s = randn(2, 3, 4, seed=1), randn(2, 3, 4, seed=2, grad=True)
    loss = relation_loss((t, t), (s, s), relation_heads=2, key_mask=torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert s.grad is not None
    assert (s.grad == 0).all()


def test_length_one_teaches_nothing() -> None:
    t, s = randn(2, 1, 4, seed=1), randn(2, 1, 4, seed=2, grad=True)
    loss = relation_loss((t, t), (s, s), relation_heads=2)
    loss.backward()
    assert loss.item() == 0.0
    assert s.grad is not None
    assert (s.grad == 0).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.1, 30.0),
    causal=st.booleans(),
    length=st.integers(2, 6),
)
def test_kl_is_positive_and_zero_iff_equal(
    seed: int, scale: float, causal: bool, length: int
) -> None:
    for at, least in (
        (min(scale, 3.0), 1e-300),
        (scale, -1e-12),
    ):  # of large numbers every relation may be one-hot, in both alike
        t, s = (
            randn(2, length, 6, seed=seed, scale=at),
            randn(2, length, 6, seed=seed + 1, scale=at),
        )
        assert relation_loss((t, t), (t, t), relation_heads=3, causal=causal).item() == 0.0
        assert relation_loss((t, t), (s, s), relation_heads=3, causal=causal).item() >= least


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    extra=st.integers(1, 4),
    causal=st.booleans(),
    garbage=st.floats(-1e3, 1e3),
)
def test_padding_changes_nothing(seed: int, extra: int, causal: bool, garbage: float) -> None:
    t, s = randn(2, 4, 6, seed=seed), randn(2, 4, 6, seed=seed + 1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])

    def pad(x: Tensor) -> Tensor:
        return torch.cat([x, torch.full((2, extra, 6), garbage, dtype=F64)], 1)

    padded_mask = torch.cat([mask, torch.zeros(2, extra, dtype=mask.dtype)], 1)
    short = relation_loss(
        (t, t), (s, s), relation_heads=3, query_mask=mask, key_mask=mask, causal=causal
    )
    long = relation_loss(
        (pad(t),) * 2,
        (pad(s),) * 2,
        relation_heads=3,
        query_mask=padded_mask,
        key_mask=padded_mask,
        causal=causal,
    )
    unmasked = relation_loss((pad(t),) * 2, (pad(s),) * 2, relation_heads=3, causal=causal)
    torch.testing.assert_close(long, short, rtol=0, atol=1e-12)
    assert abs(unmasked - short) > 1e-6


def test_order_of_heads_does_not_matter_but_their_pairing_does() -> None:
    t, s = randn(2, 4, 6, seed=1), randn(2, 4, 9, seed=2)

    def permute(x: Tensor) -> Tensor:
        return x.unflatten(-1, (3, -1))[:, :, [2, 0, 1]].flatten(2)

    plain = relation_loss((t, t), (s, s), relation_heads=3)
    both = relation_loss((permute(t),) * 2, (permute(s),) * 2, relation_heads=3)
    one = relation_loss((permute(t),) * 2, (s, s), relation_heads=3)
    torch.testing.assert_close(both, plain, rtol=0, atol=1e-12)
    assert abs(one - plain) > 1e-3


def test_low_precision_is_near_float64() -> None:
    t, s = randn(2, 32, 48, seed=1), randn(2, 32, 24, seed=2)
    exact = relation_loss((t, t), (s, s), relation_heads=6)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        ours = relation_loss((t.to(dtype),) * 2, (s.to(dtype),) * 2, relation_heads=6)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=0)


def test_mean_over_pairs() -> None:
    teacher = {n: randn(1, 3, 4, seed=i) for i, n in enumerate("qkv")}
    student = {n: randn(1, 3, 4, seed=i + 9) for i, n in enumerate("qkv")}
    masks = {n: torch.tensor([[1, 1, 0]]) for n in "qkv"}
    pairs = [("q", "k"), ("v", "v")]
    parts = [
        relation_loss(
            (teacher[a], teacher[b]),
            (student[a], student[b]),
            relation_heads=2,
            query_mask=masks[a],
            key_mask=masks[b],
        )
        for a, b in pairs
    ]
    torch.testing.assert_close(
        relations_loss(teacher, student, pairs, relation_heads=2, masks=masks),
        (parts[0] + parts[1]) / 2,
    )


def test_user_errors_are_named() -> None:
    t, s = randn(1, 3, 6, seed=1), randn(1, 3, 8, seed=2)
    with pytest.raises(ValueError, match="student's width 8 does not divide into 3 relation heads"):
        relation_loss((t, t), (s, s), relation_heads=3)
    with pytest.raises(ValueError, match="teacher's width 6 does not divide into 4"):
        relation_loss((t, t), (s, s), relation_heads=4)
    with pytest.raises(ValueError, match="differ in batch or length"):
        relation_loss((t, t), (s[:, :2], s[:, :2]), relation_heads=2)
    with pytest.raises(ValueError, match="as many rows as columns"):
        relation_loss((t, t[:, :2]), (s, s[:, :2]), relation_heads=2, causal=True)
    with pytest.raises(ValueError, match="query_mask has shape"):
        relation_loss((t, t), (s, s), relation_heads=2, query_mask=torch.ones(3))
