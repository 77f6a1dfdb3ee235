"""Hidden-state and attention losses against plain float64 forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.objectives.hidden import hidden_loss

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
