"""The divergences between a teacher's p and a student's q, row by row, and their gradients.

All are computed from log-probabilities; no epsilon is ever added to a probability. With f the
divergence and g = df/dq, its gradient with respect to the student's (tempered) logits is q (g - c),
where c = sum q g is one number a row. `value` returns c with the divergence. So `gradient` needs no
sum over the vocabulary and can work on any slice of it.

These functions take log-probabilities at any temperature and ignore that of their `Divergence`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.objectives.divergence import Divergence
from pipeline.objectives.scratch import exp_


def value(divergence: Divergence, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's divergence and its c for `gradient`, (rows,) each.

    log_p, log_q: (rows, vocabulary); both are overwritten. The kinds, with a for alpha:

    forward_kl       KL(p || q)
    reverse_kl       KL(q || p)
    jensen_shannon   a KL(p || m) + (1 - a) KL(q || m), m = a p + (1 - a) q  (GKD, arXiv 2306.13649)
    skew_kl          KL(p || a p + (1 - a) q)                           (DistiLLM, arXiv 2402.03898)
    skew_reverse_kl  KL(q || (1 - a) p + a q)                           (DistiLLM)
    """
    kind, alpha = divergence.kind, divergence.alpha
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


def gradient(divergence: Divergence, log_p: Tensor, log_q: Tensor, c: Tensor) -> Tensor:
    """Return d divergence / d student logits, (rows, any slice of the vocabulary).

    Overwrites log_p and log_q.
    """
    kind, alpha = divergence.kind, divergence.alpha
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
    divergence: Divergence, log_p: Tensor, log_q: Tensor, spare: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return `value`'s divergence of each row, and `gradient` over the whole vocabulary.

    spare: two tensors of the inputs' shape. All four are overwritten; one holds the gradient.
    """
    p, q = spare
    p.copy_(log_p)
    if divergence.kind == "forward_kl":
        # Value and gradient both need p: it is made once.
        exp_(p)
        return log_p.sub_(log_q).mul_(p).sum(-1), exp_(log_q).sub_(p)
    row_value, c = value(divergence, p, q.copy_(log_q))
    return row_value, gradient(divergence, log_p, log_q, c)


def _log_mixture(kind: str, log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """Return the log of a p + (1 - a) q, or of (1 - a) p + a q for skew_reverse_kl."""
    share = 1 - alpha if kind == "skew_reverse_kl" else alpha
    return torch.logaddexp(log_p + _log(share), log_q + _log(1 - share))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
