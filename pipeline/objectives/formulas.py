"""The divergences between a teacher's p and a student's q, row by row, and their gradients.

All are computed from log-probabilities; no epsilon is ever added to a probability. With f the divergence and
g = df/dq, the gradient with respect to the student's (tempered) logits is q (g - c), where c = sum q g is one number a
row. `value` returns it beside the divergence so that `gradient` needs no sum over the vocabulary and can work on any
slice of it.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.objectives.scratch import exp_

Kind = Literal["forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl"]

#: What `alpha` is when it is not given: the symmetric Jensen-Shannon divergence, and DistiLLM's 0.1.
DEFAULT_ALPHA: dict[str, float] = {"jensen_shannon": 0.5, "skew_kl": 0.1, "skew_reverse_kl": 0.1}


def check_alpha(kind: str, alpha: float | None) -> float:
    """The alpha to use; raises ValueError for an unknown kind or an alpha outside the kind's range."""
    if kind not in get_args(Kind):
        raise ValueError(f"unknown divergence {kind!r}; known: {', '.join(get_args(Kind))}")
    if alpha is None:
        return DEFAULT_ALPHA.get(kind, 0.0)
    if kind == "jensen_shannon" and not 0.0 < alpha < 1.0:
        raise ValueError(
            f"jensen_shannon needs 0 < alpha < 1, not {alpha}: it vanishes at both ends"
        )
    if kind.startswith("skew") and not 0.0 <= alpha < 1.0:
        raise ValueError(
            f"{kind} needs 0 <= alpha < 1, not {alpha}: at 1 it is zero for any student"
        )
    return alpha


def value(kind: str, log_p: Tensor, log_q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The divergence of each row, and the row's c for `gradient`: two (rows,) from two (rows, vocabulary), which are
    overwritten.

    forward_kl       KL(p || q)
    reverse_kl       KL(q || p)
    jensen_shannon   a KL(p || m) + (1 - a) KL(q || m), m = a p + (1 - a) q     (GKD, arXiv 2306.13649)
    skew_kl          KL(p || a p + (1 - a) q)                                   (DistiLLM, arXiv 2402.03898)
    skew_reverse_kl  KL(q || (1 - a) p + a q)                                   (DistiLLM)
    """
    if kind == "forward_kl":
        ratio = torch.sub(log_p, log_q, out=log_q)
        kl = ratio.mul_(exp_(log_p)).sum(-1)
        return kl, torch.full_like(kl, -1.0)
    if kind == "reverse_kl":
        ratio = torch.sub(log_q, log_p, out=log_p)
        kl = ratio.mul_(exp_(log_q)).sum(-1)
        return kl, kl
    log_m = _log_mixture(kind, log_p, log_q, alpha)
    if kind == "jensen_shannon":
        student = (log_q - log_m).mul_(exp_(log_q)).sum(-1)
        teacher = (log_p - log_m).mul_(exp_(log_p)).sum(-1)
        return alpha * teacher + (1 - alpha) * student, (1 - alpha) * student
    if kind == "skew_kl":
        joint = exp_((log_p + log_q).sub_(log_m)).sum(-1).mul_(alpha - 1)
        return (log_p - log_m).mul_(exp_(log_p)).sum(-1), joint
    share = exp_(torch.add(-log_m, log_q, alpha=2)).sum(-1).mul_(alpha)
    kl = (log_q - log_m).mul_(exp_(log_q)).sum(-1)
    return kl, kl - share


def gradient(kind: str, log_p: Tensor, log_q: Tensor, c: Tensor, alpha: float) -> Tensor:
    """d divergence / d student logits, (rows, any slice of the vocabulary); overwrites log_p and log_q."""
    c = c.unsqueeze(-1)
    if kind == "forward_kl":
        return exp_(log_q).sub_(exp_(log_p))
    if kind == "reverse_kl":
        ratio = log_p.neg_().add_(log_q)
        return ratio.sub_(c).mul_(exp_(log_q))
    log_m = _log_mixture(kind, log_p, log_q, alpha)
    if kind == "jensen_shannon":
        return log_m.neg_().add_(log_q).mul_(1 - alpha).sub_(c).mul_(exp_(log_q))
    if kind == "skew_kl":
        joint = exp_(log_p.add_(log_q).sub_(log_m)).mul_(alpha - 1)
        return joint.sub_(exp_(log_q).mul_(c))
    ratio = log_m.neg_().add_(log_q)
    share = exp_(ratio.clone()).mul_(-alpha)
    return ratio.add_(share).sub_(c).mul_(exp_(log_q))


def value_and_gradient(
    kind: str, log_p: Tensor, log_q: Tensor, alpha: float, spare: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """`value`'s divergence of each row and `gradient` over the whole vocabulary; overwrites both inputs and `spare`, which has
    their shapes. The gradient is in one of the four."""
    p, q = spare
    p.copy_(log_p)
    if kind == "forward_kl":
        # The one both need, made once.
        exp_(p)
        return log_p.sub_(log_q).mul_(p).sum(-1), exp_(log_q).sub_(p)
    row_value, c = value(kind, p, q.copy_(log_q), alpha)
    return row_value, gradient(kind, log_p, log_q, c, alpha)


def _log_mixture(kind: str, log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """log of a p + (1 - a) q, or of (1 - a) p + a q for skew_reverse_kl."""
    share = 1 - alpha if kind == "skew_reverse_kl" else alpha
    return torch.logaddexp(log_p + _log(share), log_q + _log(1 - share))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
