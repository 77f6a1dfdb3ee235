"""Attention losses against plain float64 forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.objectives.attention import attention_loss
from pipeline.objectives.relations import relation_loss

F64 = torch.float64


def randn(*shape: int, seed: int, grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64).requires_grad_(grad)


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
