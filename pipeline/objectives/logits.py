"""Losses on logits: divergences from a teacher, sparse (sampled, top-k) targets, LM cross-entropy.

Each works on a few positions at a time and keeps nothing as large as the logits between forward and
backward: the backward pass, written by hand, makes the probabilities again from the logits, which
exist anyway. The only tensor of positions x vocabulary ever made is the gradient itself, in the
logits' dtype. Softmax and sums are in fp32 (fp64 for fp64 logits). Logits must be finite. Positions
left out by a mask are not read, so they may hold anything.

On CUDA, `divergence` is two fused kernels (`kernels.rows`) where `kernels.usable` says so.

From hidden states, where even the logits need not exist, see the package `head`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives import formulas, kernels
from pipeline.objectives.divergence import (
    FORWARD_KL,
    Divergence,
    check_share,
    check_temperature,
)
from pipeline.objectives.positions import IGNORE, Chunks, chunk_rows, valid_rows
from pipeline.objectives.scratch import exp_, wide_dtype


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None = None,
    settings: Divergence = FORWARD_KL,
    *,
    target_share: float = 1.0,
) -> Tensor:
    """Return the mean divergence over valid positions times temperature^2.

    The factor is that of Hinton et al. 2015 (arXiv 1503.02531, section 2).

    student_logits, teacher_logits: (positions..., vocabulary). mask: (positions...), 1 = valid; all
    valid when absent. target_share: below 1 the target is `taid_target` with that share.
    Returns a scalar in fp32 (fp64 for fp64 logits), 0 when nothing is valid. Gradients flow to the
    student alone. Raises ValueError for shapes that differ and a share out of range.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student and teacher logits differ: {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}; both need the same positions and vocabulary"
        )
    check_share(target_share)
    rows = valid_rows(mask, student_logits)
    loss: Tensor = _Dense.apply(
        student_logits, teacher_logits.detach(), rows, settings, float(target_share)
    )
    return loss


def lm_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over labels other than -100, 0 when there are none.

    student_logits: (positions..., vocabulary); labels: (positions...) int. The loss is in fp32
    (fp64 for fp64 logits).
    """
    if labels.shape != student_logits.shape[:-1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit logits {tuple(student_logits.shape)}"
        )
    ids = labels.reshape(-1, 1)
    # A one-hot target is a sparse one whose entropy is 0, so its KL is the cross-entropy.
    return _sparse(student_logits, ids.clamp(min=0), None, None, labels != IGNORE, 1.0)


def sampled_kl(
    student_logits: Tensor,
    ids: Tensor,
    counts: Tensor,
    mask: Tensor | None = None,
    *,
    entropy: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Return the KL from targets sampled from the teacher.

    This is Sparse Logit Sampling (arXiv 2503.16870).

    student_logits: (positions..., vocabulary).
    ids: (positions..., k) int; a row's ids must differ where their count is not 0.
    counts: (positions..., k), draws or importance weights, 0 where unused. Each row is divided by
        its sum; a row whose sum is 0 is not valid.
    mask: (positions...), 1 = valid.
    entropy: (positions...), the teacher's exact entropy in nats where it was stored. Value and
        gradient are then unbiased estimates of KL(teacher || student). Without it the value is
        KL(empirical || student). That is biased, by the entropy that the draws lack, but has the
        same, unbiased, gradient.
    temperature: that of the teacher's distribution when the targets were drawn.
    """
    weights = counts.to(wide_dtype(student_logits))
    total = weights.sum(-1, keepdim=True)
    valid = total.squeeze(-1) > 0
    valid = valid if mask is None else valid & mask.bool()
    shares = weights / torch.where(total > 0, total, torch.ones_like(total))
    own = torch.special.entr(shares).sum(-1)
    return _sparse(
        student_logits, ids, shares, None, valid, temperature, own if entropy is None else entropy
    )


def topk_kl(
    student_logits: Tensor,
    ids: Tensor,
    probabilities: Tensor,
    mask: Tensor | None = None,
    *,
    tail: bool = True,
    temperature: float = 1.0,
) -> Tensor:
    """Return the KL from the teacher's k most probable tokens: biased, unlike `sampled_kl`.

    ids, probabilities: (positions..., k), distinct ids and the teacher's probabilities at
        `temperature`.
    tail: what the k lack of 1 is one more outcome, compared with the student's mass outside the k.
        Without it the k probabilities are scaled to sum to 1, and the student is pushed to put
        nothing elsewhere.
    """
    p = probabilities.to(wide_dtype(student_logits))
    total = p.sum(-1, keepdim=True)
    if not tail or ids.shape[-1] == student_logits.shape[-1]:
        p, rest = p / torch.where(total > 0, total, torch.ones_like(total)), None
    else:
        rest = (1 - total.squeeze(-1)).clamp(min=0)
    own = torch.special.entr(p).sum(-1) + (0 if rest is None else torch.special.entr(rest))
    return _sparse(student_logits, ids, p, rest, mask, temperature, own)


def taid_target(student_logits: Tensor, teacher_logits: Tensor, share: float) -> Tensor:
    """Return TAID's moving target as logits (arXiv 2501.16937, equation 3).

    It is (1 - share) student (detached) + share teacher.
    """
    check_share(share)
    return torch.lerp(
        student_logits.detach(), teacher_logits.detach().to(student_logits.dtype), share
    )


def topk_outcomes(student_logits: Tensor, ids: Tensor) -> Tensor:
    """Return the student's log-probabilities of k tokens and, last, of all others together.

    student_logits: (positions..., vocabulary); ids: (positions..., k) int, distinct in a row.
    Returns (positions..., k + 1) in fp32 (fp64 for fp64 logits). With the teacher's k
    log-probabilities and the log of its tail mass, `divergence` compares the k + 1 outcomes: a
    lower bound of the divergence over the vocabulary.
    """
    outcomes: Tensor = _Outcomes.apply(student_logits, ids.reshape(-1, ids.shape[-1]).long())
    return outcomes.unflatten(0, ids.shape[:-1]) if ids.dim() > 2 else outcomes


class _Outcomes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, ids: Tensor) -> Tensor:
        chunks = Chunks(student, 1.0)
        out = torch.empty((len(ids), ids.shape[1] + 1), dtype=chunks.wide, device=student.device)
        for part in torch.arange(len(ids), device=student.device).split(chunk_rows(student)):
            log_q = chunks.log_q(part)
            out[part, :-1] = log_q.gather(1, ids[part])
            out[part, -1] = log_q.scatter_(1, ids[part], -torch.inf).logsumexp(-1)
        ctx.save_for_backward(student, ids, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        student, ids, outcomes = ctx.saved_tensors
        chunks = Chunks(student, 1.0)
        rows = torch.arange(len(ids), device=student.device)
        out = chunks.gradient(rows)
        for part in rows.split(chunk_rows(student)):
            g, log_q = grad[part], chunks.log_q(part)
            # Inside the k: g_k - (sum g) q. Outside: (g_rest / q_rest - sum g) q, with the quotient
            # taken in log space.
            inside = g[:, :-1] - g.sum(-1, keepdim=True) * log_q.gather(1, ids[part]).exp()
            rest = outcomes[part, -1:]
            share = exp_(log_q - torch.where(rest > -torch.inf, rest, 0.0)).mul_(g[:, -1:])
            d = (
                exp_(log_q)
                .mul_(-g.sum(-1, keepdim=True))
                .add_(share)
                .scatter_(1, ids[part], inside)
            )
            chunks.put(out, part, d)
        return (out.view_as(student), None)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        rows: Tensor,
        settings: Divergence,
        share: float,
    ) -> Tensor:
        ctx.settings, ctx.share = settings, share
        ctx.fused = kernels.usable(student, teacher)
        chunks = Chunks(student, settings.temperature)
        flat_teacher = teacher.reshape(-1, teacher.shape[-1])
        if ctx.fused:
            from pipeline.objectives.kernels import rows as fused

            row_values, stats = fused.values(
                settings, chunks.student, flat_teacher, rows, share=share
            )
            ctx.save_for_backward(student, teacher, rows, stats)
            return row_values.sum() * (settings.temperature**2 / max(len(rows), 1))
        total = torch.zeros((), dtype=chunks.wide, device=student.device)
        constants = []
        for part in rows.split(chunk_rows(student)):
            log_p, log_q = chunks.log_p(flat_teacher, part, share), chunks.log_q(part)
            row_value, c = formulas.value(settings, log_p, log_q)
            total += row_value.sum()
            constants.append(c)
        ctx.save_for_backward(
            student, teacher, rows, torch.cat(constants) if constants else total.new_empty(0)
        )
        return total * (settings.temperature**2 / max(len(rows), 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, rows, constants = ctx.saved_tensors
        settings, share = ctx.settings, ctx.share
        chunks = Chunks(student, settings.temperature)
        flat_teacher = teacher.reshape(-1, teacher.shape[-1])
        size = chunk_rows(student)
        # One temperature is the logits' own 1/temperature, the other is left of temperature^2.
        factor = grad * (settings.temperature / max(len(rows), 1))
        out = chunks.gradient(rows)
        if ctx.fused:
            from pipeline.objectives.kernels import rows as fused

            factors = factor.float().expand(len(rows))
            fused.gradient_(
                out, settings, chunks.student, flat_teacher, constants, factors, rows, share=share
            )
            return (out.view_as(student), None, None, None, None)
        for part, c in zip(rows.split(size), constants.split(size), strict=False):
            log_p, log_q = chunks.log_p(flat_teacher, part, share), chunks.log_q(part)
            chunks.put(out, part, formulas.gradient(settings, log_p, log_q, c).mul_(factor))
        return (out.view_as(student), None, None, None, None)


class _Sparse(torch.autograd.Function):
    """sum_k p_k (-log q_k) + rest (-log of q's mass outside the k), over the student's q.

    The loss is the mean over rows times temperature^2.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        ids: Tensor,
        p: Tensor,
        rest: Tensor | None,
        rows: Tensor,
        temperature: float,
    ) -> Tensor:
        chunks = Chunks(student, temperature)
        total = torch.zeros((), dtype=chunks.wide, device=student.device)
        for part in rows.split(chunk_rows(student)):
            log_q = chunks.log_q(part)
            total -= (torch.where(p[part] > 0, log_q.gather(1, ids[part]), 0.0) * p[part]).sum()
            if rest is not None:
                outside = log_q.scatter_(1, ids[part], -torch.inf).logsumexp(-1)
                total -= torch.where(rest[part] > 0, outside * rest[part], 0.0).sum()
        ctx.save_for_backward(student, ids, p, rest, rows)
        ctx.temperature = temperature
        return total * (temperature**2 / max(len(rows), 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        student, ids, p, rest, rows = ctx.saved_tensors
        chunks = Chunks(student, ctx.temperature)
        factor = grad * (ctx.temperature / max(len(rows), 1))
        out = chunks.gradient(rows)
        for part in rows.split(chunk_rows(student)):
            log_q = chunks.log_q(part)
            if rest is None:
                # d / d logits = (sum p) q - p.
                d = exp_(log_q).mul_(p[part].sum(-1, keepdim=True))
                d.scatter_add_(1, ids[part], -p[part])
            else:
                # Inside the k: (sum p + rest) q - p; outside, rest q / q_outside less.
                tail = rest[part].unsqueeze(1)
                mass = p[part].sum(-1, keepdim=True) + tail
                inside = log_q.gather(1, ids[part]).exp() * mass - p[part]
                outside = log_q.scatter_(1, ids[part], -torch.inf).logsumexp(-1, keepdim=True)
                # tail / q_outside may be huge while q is tiny: taken together in log space.
                moved = exp_(log_q - torch.where(tail > 0, outside, 0.0)).mul_(tail)
                d = exp_(log_q).mul_(mass).sub_(moved).scatter_(1, ids[part], inside)
            chunks.put(out, part, d.mul_(factor))
        return (out.view_as(student), None, None, None, None, None)


def _sparse(
    student_logits: Tensor,
    ids: Tensor,
    p: Tensor | None,
    rest: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    entropy: Tensor | None = None,
) -> Tensor:
    check_temperature(temperature)
    if ids.shape[:-1] != student_logits.shape[:-1] and p is not None:
        raise ValueError(f"ids {tuple(ids.shape)} do not fit logits {tuple(student_logits.shape)}")
    if p is not None and p.shape != ids.shape:
        raise ValueError(
            f"ids {tuple(ids.shape)} and their counts or probabilities {tuple(p.shape)} differ"
        )
    rows = valid_rows(mask, student_logits)
    flat_ids = ids.reshape(-1, ids.shape[-1]).long()
    flat_p = (
        torch.ones_like(flat_ids, dtype=wide_dtype(student_logits))
        if p is None
        else p.reshape(-1, p.shape[-1])
    )
    flat_rest = None if rest is None else rest.reshape(-1)
    cross: Tensor = _Sparse.apply(
        student_logits, flat_ids, flat_p.detach(), flat_rest, rows, float(temperature)
    )
    if entropy is None:
        return cross
    return cross - entropy.reshape(-1)[rows].to(cross.dtype).sum() * (
        temperature**2 / max(len(rows), 1)
    )
