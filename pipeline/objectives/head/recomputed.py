"""Divergence and LM loss straight from hidden states and the LM heads: neither model's logits ever exist in full.

Forward: a few positions at a time, logits of both models, the divergence and the cross-entropy; what stays is a handful
of numbers a position (the log-sum-exps and one constant, see `formulas`). Backward, by hand: the logits again, now a
slice of the vocabulary at a time for all positions, so that each slice of the weight's gradient is one product, written
once in the weight's dtype; nothing is summed up in low precision and no fp32 copy of the weight's gradient is needed.

The price is two products more than plain autograd's four (both models' logits are made twice); what is saved is all
passes over positions x vocabulary in main memory. docs/objectives.md says what that comes to. On CUDA the products stay
PyTorch's, and what is done to a chunk of logits is a fused kernel (`kernels.rows`) where `kernels.usable` says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives import formulas, kernels
from pipeline.objectives.head.chunks import budget, logits_of, normalise, scored_rows
from pipeline.objectives.scratch import Scratch, exp_, wide_dtype

#: The narrowest slice of the vocabulary the backward pass takes, however many positions there are.
MIN_COLUMNS = 64


class Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        teacher_bias: Tensor | None,
        divergence_rows: Tensor,
        label_rows: Tensor,
        labels: Tensor | None,
        settings: tuple[Any, ...],
    ) -> tuple[Tensor, Tensor]:
        kind, temperature, alpha, share, scale, teacher_scale, chunk = settings
        wide = wide_dtype(hidden)
        rows, div_weight, lm_weight, targets = scored_rows(
            hidden, divergence_rows, label_rows, labels, temperature, wide
        )
        h = hidden.reshape(-1, hidden.shape[-1])[rows]
        # Rows that only the LM loss reads may hold anything on the teacher's side.
        th = teacher_hidden.reshape(-1, teacher_hidden.shape[-1])[rows].masked_fill(
            (div_weight == 0).unsqueeze(1), 0
        )
        w, tw = weight.to(h.dtype), teacher_weight.to(th.dtype)
        size = chunk or max(1, budget(hidden) // weight.shape[0])

        divergence = torch.zeros((), dtype=wide, device=hidden.device)
        lm = torch.zeros_like(divergence)
        stats = h.new_empty(
            (4, len(rows)), dtype=wide
        )  # log-sum-exp of q, of p, of q at temperature 1; c
        scratch = Scratch(hidden.device)
        ctx.fused = kernels.usable(hidden, weight, teacher_hidden, teacher_weight)
        for start in range(0, len(rows), size):
            r = slice(start, min(start + size, len(rows)))
            s = logits_of(scratch, "s", h[r], w, bias, scale, wide)
            t = logits_of(scratch, "t", th[r], tw, teacher_bias, teacher_scale, wide)
            if share != 1.0:
                t.lerp_(s, 1 - share)
            if ctx.fused:
                row_value, stats[0, r], stats[1, r], stats[3, r] = _fused_values(
                    kind, s, t, temperature, alpha
                )
                divergence += (row_value * div_weight[r]).sum()
                if targets is not None:
                    stats[2, r] = (
                        stats[0, r]
                        if temperature == 1.0
                        else _fused_values("forward_kl", s, s, 1.0, 0.0)[1]
                    )
                    lm -= (
                        (s.gather(1, targets[r].unsqueeze(1)).squeeze(1) - stats[2, r])
                        * lm_weight[r]
                    ).sum()
                continue
            if targets is not None and temperature != 1.0:
                # The LM loss is at temperature 1: a normalisation of its own.
                copy = scratch.get("copy", tuple(s.shape), wide).copy_(s)
                log_q, stats[2, r] = normalise(copy, 1.0)
                lm -= (log_q.gather(1, targets[r].unsqueeze(1)).squeeze(1) * lm_weight[r]).sum()
            log_q, stats[0, r] = normalise(s, temperature)
            if targets is not None and temperature == 1.0:
                stats[2, r] = stats[0, r]
                lm -= (log_q.gather(1, targets[r].unsqueeze(1)).squeeze(1) * lm_weight[r]).sum()
            log_p, stats[1, r] = normalise(t, temperature)
            row_value, stats[3, r] = formulas.value(kind, log_p, log_q, alpha)
            divergence += (row_value * div_weight[r]).sum()
        ctx.save_for_backward(
            h,
            weight,
            bias,
            th,
            teacher_weight,
            teacher_bias,
            rows,
            div_weight,
            lm_weight,
            targets,
            stats,
        )
        ctx.settings, ctx.shape = settings, hidden.shape
        return divergence, lm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_divergence: Tensor, grad_lm: Tensor) -> tuple[Tensor | None, ...]:
        (
            h,
            weight,
            bias,
            th,
            teacher_weight,
            teacher_bias,
            rows,
            div_weight,
            lm_weight,
            targets,
            stats,
        ) = ctx.saved_tensors
        kind, temperature, alpha, share, scale, teacher_scale, _ = ctx.settings
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        wide = stats.dtype
        # One temperature is the logits' own 1/temperature, the other is left of temperature^2 in div_weight.
        div_factor = (grad_divergence * div_weight / temperature).unsqueeze(1)
        lm_factor = (grad_lm * lm_weight).unsqueeze(1)
        sum_h = torch.zeros(h.shape, dtype=wide, device=h.device) if for_hidden else None
        grad_w = torch.empty_like(weight) if for_weight else None
        grad_bias = torch.empty_like(bias) if for_bias else None
        scratch = Scratch(h.device)
        # Half the forward pass's: here the weight's gradient is alive beside the buffers.
        size = max(MIN_COLUMNS, budget(h) // 2 // max(len(rows), 1))
        for start in range(0, weight.shape[0], size):
            v = slice(start, min(start + size, weight.shape[0]))
            w, tw = weight[v].to(h.dtype), teacher_weight[v].to(th.dtype)
            s = logits_of(scratch, "s", h, w, None if bias is None else bias[v], scale, wide)
            t = logits_of(
                scratch,
                "t",
                th,
                tw,
                None if teacher_bias is None else teacher_bias[v],
                teacher_scale,
                wide,
            )
            if share != 1.0:
                t.lerp_(s, 1 - share)
            lm_part = None
            if targets is not None:
                lm_part = scratch.get("copy", tuple(s.shape), wide)
                exp_(torch.sub(s, stats[2].unsqueeze(1), out=lm_part)).mul_(lm_factor)
                inside = ((targets >= v.start) & (targets < v.stop)).nonzero().squeeze(1)
                lm_part[inside, targets[inside] - v.start] -= lm_factor[inside, 0]
            if ctx.fused:
                d = _fused_gradient(kind, s, t, stats, div_factor, temperature, alpha)
            else:
                log_p = (t if temperature == 1.0 else t.div_(temperature)).sub_(
                    stats[1].unsqueeze(1)
                )
                log_q = (s if temperature == 1.0 else s.div_(temperature)).sub_(
                    stats[0].unsqueeze(1)
                )
                d = formulas.gradient(kind, log_p, log_q, stats[3], alpha).mul_(div_factor)
            if lm_part is not None:
                d.add_(lm_part)
            if grad_bias is not None:
                grad_bias[v] = d.sum(0)
            if scale != 1.0:
                d.mul_(scale)
            if d.dtype != h.dtype:
                d = scratch.get("raw", tuple(d.shape), h.dtype).copy_(d)
            if sum_h is not None:
                sum_h += d @ w
            if grad_w is not None:
                grad_w[v] = d.t() @ h
        grad_h = None
        if sum_h is not None:
            grad_h = sum_h.new_zeros((ctx.shape[:-1].numel(), ctx.shape[-1]), dtype=h.dtype)
            grad_h = grad_h.index_copy_(0, rows, sum_h.to(h.dtype)).view(ctx.shape)
        return (grad_h, grad_w, grad_bias, None, None, None, None, None, None, None)


def _fused_values(
    kind: str, s: Tensor, t: Tensor, temperature: float, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each row's divergence, log-sum-exp of q and of p, and c, by the kernel; s and t stay."""
    from pipeline.objectives.kernels import rows as fused

    divergence, (top_q, rest_q, top_p, rest_p, c) = fused.values(
        kind, s, t, temperature=temperature, alpha=alpha
    )
    return divergence, top_q + rest_q, top_p + rest_p, c


def _fused_gradient(
    kind: str, s: Tensor, t: Tensor, stats: Tensor, factor: Tensor, temperature: float, alpha: float
) -> Tensor:
    """factor x d divergence / d tempered student logits by the kernel, for a slice of the vocabulary; s is overwritten."""
    from pipeline.objectives.kernels import rows as fused

    none = torch.zeros_like(stats[0])
    numbers = torch.stack([stats[0], none, stats[1], none, stats[3]])
    fused.gradient_(s, kind, s, t, numbers, factor.squeeze(1), temperature=temperature, alpha=alpha)
    return s
