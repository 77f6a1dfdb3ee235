"""The KL from sampled targets and the LM loss from the same logits, in one pass instead of two.

Both gradients are a multiple of the student's probabilities less something sparse, so their sum
costs what one of them does. Either costs a pass over positions x vocabulary; everything else is k
numbers a position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives.positions import IGNORE, chunk_rows
from pipeline.objectives.scratch import Scratch, exp_, log_softmax_, wide_dtype


def sampled_kl_and_lm(
    student_logits: Tensor, ids: Tensor, counts: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (kl, lm), two scalars in fp32 (fp64 for fp64 logits), at temperature 1.

    They are what `logits.sampled_kl` with the mask labels != -100 and `logits.lm_loss` give.

    student_logits: (positions..., vocabulary). ids, counts: (positions..., k), as
    `logits.sampled_kl` takes them. labels: (positions...) int, -100 where neither loss looks.
    Positions left out are not read. Raises ValueError for shapes that do not fit.
    """
    positions = student_logits.shape[:-1]
    if labels.shape != positions or ids.shape[:-1] != positions or counts.shape != ids.shape:
        raise ValueError(
            f"labels {tuple(labels.shape)}, ids {tuple(ids.shape)} and counts "
            f"{tuple(counts.shape)} do not fit logits {tuple(student_logits.shape)}"
        )
    rows = (labels.reshape(-1) != IGNORE).nonzero().squeeze(1)
    drawn = counts.reshape(-1, counts.shape[-1])[rows].to(wide_dtype(student_logits))
    total = drawn.sum(-1, keepdim=True)
    used = (total > 0).sum().clamp(min=1)
    # A row's share in the mean over rows that have draws; those without any have shares of 0.
    p = drawn / (torch.where(total > 0, total, torch.ones_like(total)) * used)
    entropy = torch.special.entr(p * used).sum() / used
    own_ids, own_labels = (
        ids.reshape(-1, ids.shape[-1])[rows].long(),
        labels.reshape(-1)[rows].long(),
    )
    cross, lm = _Joint.apply(student_logits, own_ids, p, own_labels, rows)
    return cross - entropy, lm


class _Joint(torch.autograd.Function):
    """The sum of p (-log q) over all rows, and the mean of -log q of the labels."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, ids: Tensor, p: Tensor, labels: Tensor, rows: Tensor
    ) -> tuple[Tensor, ...]:
        flat, wide = student.reshape(-1, student.shape[-1]), p.dtype
        scratch, size = Scratch(student.device), chunk_rows(student)
        cross, lm = torch.zeros((2,), dtype=wide, device=student.device).unbind()
        log_sum = torch.empty((len(rows), 1), dtype=wide, device=student.device)
        for start in range(0, len(rows), size):
            r = slice(start, start + size)
            logits = _take(scratch, flat, rows, r, wide)
            top = logits.amax(-1, keepdim=True)
            log_q = log_softmax_(logits)
            # From the maxima, where nothing cancels.
            log_sum[r] = top.sub_(log_q.amax(-1, keepdim=True))
            cross = cross - torch.where(p[r] > 0, log_q.gather(1, ids[r]) * p[r], 0.0).sum()
            lm = lm - log_q.gather(1, labels[r].unsqueeze(1)).sum()
        ctx.save_for_backward(student, ids, p, labels, rows, log_sum)
        return cross, lm / max(len(rows), 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_cross: Tensor, grad_lm: Tensor) -> tuple[Tensor | None, ...]:
        student, ids, p, labels, rows, log_sum = ctx.saved_tensors
        flat, share = student.reshape(-1, student.shape[-1]), grad_lm / max(len(rows), 1)
        scratch, size = Scratch(student.device), chunk_rows(student)
        out = torch.empty_like(flat) if len(rows) == len(flat) else torch.zeros_like(flat)
        for start in range(0, len(rows), size):
            r = slice(start, start + size)
            # d cross / d logits = (sum p) q - p, d lm / d logits = q - onehot.
            d = exp_(_take(scratch, flat, rows, r, p.dtype).sub_(log_sum[r]))
            d.mul_(p[r].sum(-1, keepdim=True) * grad_cross + share)
            d.scatter_add_(1, ids[r], p[r] * -grad_cross)
            d.scatter_add_(1, labels[r].unsqueeze(1), -share.expand(len(d), 1))
            if len(rows) == len(flat):
                out[r] = d
            else:
                out.index_copy_(0, rows[r], d.to(out.dtype))
        return (out.view_as(student), None, None, None, None)


def _take(scratch: Scratch, flat: Tensor, rows: Tensor, part: slice, wide: torch.dtype) -> Tensor:
    """Return some rows of `flat` in the wide dtype, in memory that the next call overwrites."""
    chosen = flat[part] if len(rows) == len(flat) else torch.index_select(flat, 0, rows[part])
    return scratch.get("logits", tuple(chosen.shape), wide).copy_(chosen)
