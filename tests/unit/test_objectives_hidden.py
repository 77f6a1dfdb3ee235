"""Hidden-state and attention losses against plain float64 forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.objectives.attention import attention_loss
from pipeline.objectives.hidden import hidden_loss
from pipeline.objectives.relations import relation_loss

F64 = torch.float64
MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])


def randn(*shape: int, seed: int, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64).requires_grad_(grad)


def test_mse_through_a_projection() -> None:
    s, t, w = (
        randn(2, 3, 4, seed=1, grad=True),
        randn(2, 3, 6, seed=2, grad=True),
        randn(6, 4, seed=3, grad=True),
    )
    loss = hidden_loss(s, t, MASK, projection=w)
    plain = sum(((w @ s[i, j] - t[i, j]) ** 2).mean() for i, j in MASK.nonzero().tolist()) / 4
    assert torch.is_tensor(plain)
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-9)
    for mine, theirs in zip(
        torch.autograd.grad(loss, (s, w)), torch.autograd.grad(plain, (s, w)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    hidden_loss(s, t, MASK, projection=w).backward()
    assert t.grad is None
    assert torch.autograd.gradcheck(
        lambda s, w: hidden_loss(s, t, MASK, projection=w, kind="cosine"), (s, w)
    )


def test_cosine_ignores_length_and_sees_direction() -> None:
    t = randn(2, 3, 4, seed=1)
    assert abs(hidden_loss(3 * t, t, kind="cosine").item()) < 1e-12
    assert hidden_loss(-t, t, kind="cosine").item() == pytest.approx(2.0)
    assert hidden_loss(3 * t, t, kind="mse").item() > 0.1


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_padding_and_extremes(kind: str) -> None:
    s, t = randn(2, 3, 4, seed=1), randn(2, 3, 4, seed=2)
    clean = hidden_loss(s, t, MASK, kind=kind)
    s[MASK == 0] = float("nan")
    assert hidden_loss(s, t, MASK, kind=kind) == clean
    big = (randn(2, 3, 4, seed=3).sign() * 1e4).bfloat16().requires_grad_()
    loss = hidden_loss(big, -big.detach(), kind=kind)
    loss.backward()
    assert loss.isfinite()
    assert loss > 1
    assert big.grad is not None
    assert big.grad.isfinite().all()
    empty = hidden_loss(big, big.detach(), torch.zeros(2, 3), kind=kind)
    empty.backward()
    assert empty.item() == 0.0


def test_hidden_errors_are_named() -> None:
    s, t = randn(1, 2, 4, seed=1), randn(1, 2, 6, seed=2)
    with pytest.raises(ValueError, match="give a projection"):
        hidden_loss(s, t)
    with pytest.raises(ValueError, match="teacher width, student width"):
        hidden_loss(s, t, projection=randn(4, 6, seed=3))
    with pytest.raises(ValueError, match="unknown kind"):
        hidden_loss(s, s, kind="l1")  # type: ignore[arg-type]


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_position_bias(causal: bool) -> None:
    """T5's form: no scale, a bias that both models learn, padding.

    The row mean is over heads and valid rows.
    """
    keys = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    tq, tk = randn(2, 4, 6, seed=1), randn(2, 4, 6, seed=2)
    sq, sk = randn(2, 4, 4, seed=3, grad=True), randn(2, 4, 4, seed=4, grad=True)
    t_bias, s_bias = randn(1, 2, 4, 4, seed=5), randn(1, 2, 4, 4, seed=6, grad=True)
    loss = attention_loss(
        (tq, tk),
        (sq, sk),
        heads=2,
        teacher_scale=1.0,
        student_scale=0.5,
        teacher_bias=t_bias,
        student_bias=s_bias,
        query_mask=keys,
        key_mask=keys,
        causal=causal,
    )
    means = []
    for i in range(2):
        rows = []
        for r in range(4):
            seen = [j for j in range(4) if keys[i, j] and (not causal or j <= r)]
            if not keys[i, r] or not seen:
                continue
            for h in range(2):
                p = (
                    tk[i, seen, 3 * h : 3 * h + 3] @ tq[i, r, 3 * h : 3 * h + 3]
                    + t_bias[0, h, r, seen]
                ).softmax(-1)
                q = (
                    0.5 * sk[i, seen, 2 * h : 2 * h + 2] @ sq[i, r, 2 * h : 2 * h + 2]
                    + s_bias[0, h, r, seen]
                ).softmax(-1)
                rows.append((p * (p / q).log()).sum())
        means.append(torch.stack(rows).mean())
    plain = torch.stack(means).mean()
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-9)
    inputs = (sq, sk, s_bias)
    for mine, theirs in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, inputs), strict=True
    ):
        assert theirs.abs().max() > 1e-4
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_scaled_attention_is_the_qk_relation() -> None:
    t, s = (
        (randn(2, 3, 8, seed=1), randn(2, 5, 8, seed=2)),
        (randn(2, 3, 4, seed=3), randn(2, 5, 4, seed=4)),
    )
    attention = attention_loss(t, s, heads=2, teacher_scale=4**-0.5, student_scale=2**-0.5)
    torch.testing.assert_close(attention, relation_loss(t, s, relation_heads=2), rtol=0, atol=1e-12)


def test_attention_with_nothing_to_see_is_zero() -> None:
    q = randn(2, 3, 4, seed=1, grad=True)
    loss = attention_loss(
        (q, q), (q, q), heads=2, teacher_scale=1, student_scale=1, key_mask=torch.zeros(2, 3)
    )
    loss.backward()
    assert loss.item() == 0.0
    assert q.grad is not None
    assert (q.grad == 0).all()
