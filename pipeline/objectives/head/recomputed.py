"""Divergence and LM loss from hidden states and the LM heads, with logits made twice.

Forward: a few positions at a time, logits of both models, the divergence and the cross-entropy.
What stays is a handful of numbers a position (the log-sum-exps and one constant, see `formulas`).
Backward, by hand: the logits again, now a slice of the vocabulary at a time for all positions. So
each slice of the weight's gradient is one product, written once in the weight's dtype. Nothing is
summed up in low precision and no fp32 copy of the weight's gradient is needed.

The price is two products more than plain autograd's four, because both models' logits are made
twice. What is saved is all passes over positions x vocabulary in main memory. docs/objectives.md
says what that comes to. On CUDA the products stay PyTorch's; what is done to a chunk of logits is a
fused kernel (`kernels.rows`) where `kernels.usable` says so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives import formulas, kernels
from pipeline.objectives.divergence import FORWARD_KL, Divergence
from pipeline.objectives.head.comparison import Comparison, Scored, normalise, picked
from pipeline.objectives.head.predictor import Predictor
from pipeline.objectives.scratch import Scratch, chunk_size, exp_

#: The narrowest slice of the vocabulary the backward pass takes, with any number of positions.
MIN_COLUMNS = 64


class _Kept(NamedTuple):
    """Tensors that the backward pass needs."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    teacher_hidden: Tensor
    teacher_weight: Tensor
    teacher_bias: Tensor | None
    rows: Tensor
    divergence_weight: Tensor
    lm_weight: Tensor
    targets: Tensor | None
    #: (4, n): log-sum-exp of q, of p, of q at temperature 1; c.
    stats: Tensor


class Recomputed(torch.autograd.Function):
    """Six products; keeps the scored hidden states and four numbers a position."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        teacher: Predictor,
        scored: Scored,
        settings: Divergence,
        share: float,
    ) -> tuple[Tensor, Tensor]:
        student = Predictor(hidden.reshape(-1, hidden.shape[-1])[scored.rows], weight, scale, bias)
        compared = Comparison(student.cast(), teacher.cast(), scored, settings, share)
        wide = scored.divergence_weight.dtype
        stats = student.hidden.new_empty((4, len(scored.rows)), dtype=wide)
        ctx.fused = kernels.usable(hidden, weight, teacher.hidden, teacher.weight)
        divergence = torch.zeros((), dtype=wide, device=hidden.device)
        lm = torch.zeros_like(divergence)
        values = _fused_values if ctx.fused else _plain_values
        size = max(1, chunk_size(hidden.device) // weight.shape[0])
        scratch = Scratch(hidden.device)
        for start in range(0, len(scored.rows), size):
            r = slice(start, start + size)
            values(compared.rows(r), stats[:, r], divergence, lm, scratch)
        kept = _Kept(
            student.hidden,
            weight,
            bias,
            teacher.hidden,
            teacher.weight,
            teacher.bias,
            scored.rows,
            scored.divergence_weight,
            scored.lm_weight,
            scored.targets,
            stats,
        )
        ctx.save_for_backward(*kept)
        ctx.scales, ctx.shape = (scale, teacher.scale), hidden.shape
        ctx.settings, ctx.share = settings, share
        return divergence, lm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_divergence: Tensor, grad_lm: Tensor) -> tuple[Tensor | None, ...]:
        kept = _Kept(*ctx.saved_tensors)
        compared = _compared(kept, ctx)
        factors = compared.scored.factors(grad_divergence, grad_lm, ctx.settings.temperature)
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        h, wide, scratch = kept.hidden, kept.stats.dtype, Scratch(kept.hidden.device)
        sum_h = torch.zeros(h.shape, dtype=wide, device=h.device) if for_hidden else None
        grad_w = torch.empty_like(kept.weight) if for_weight else None
        grad_bias = torch.empty_like(kept.bias) if kept.bias is not None and for_bias else None
        # Half the forward pass's: here the weight's gradient is alive together with the buffers.
        size = max(MIN_COLUMNS, chunk_size(h.device) // 2 // max(len(h), 1))
        for start in range(0, len(kept.weight), size):
            v = slice(start, min(start + size, len(kept.weight)))
            part = compared.columns(v)
            d = _slice_gradient(part, v, kept.stats, factors, ctx.fused, scratch)
            if grad_bias is not None:
                grad_bias[v] = d.sum(0)
            if part.student.scale != 1.0:
                d.mul_(part.student.scale)
            if d.dtype != h.dtype:
                d = scratch.get("raw", tuple(d.shape), h.dtype).copy_(d)
            if sum_h is not None:
                sum_h += d @ part.student.weight
            if grad_w is not None:
                grad_w[v] = d.t() @ h
        grad_h = None
        if sum_h is not None:
            grad_h = sum_h.new_zeros((ctx.shape[:-1].numel(), ctx.shape[-1]), dtype=h.dtype)
            grad_h = grad_h.index_copy_(0, kept.rows, sum_h.to(h.dtype)).view(ctx.shape)
        return (grad_h, grad_w, grad_bias, *[None] * 5)


def _compared(kept: _Kept, ctx: Any) -> Comparison:
    """Return the comparison that the forward pass made, the weights not yet cast."""
    scale, teacher_scale = ctx.scales
    return Comparison(
        Predictor(kept.hidden, kept.weight, scale, kept.bias),
        Predictor(kept.teacher_hidden, kept.teacher_weight, teacher_scale, kept.teacher_bias),
        Scored(kept.rows, kept.divergence_weight, kept.lm_weight, kept.targets),
        ctx.settings,
        ctx.share,
    )


def _plain_values(
    chunk: Comparison, stats: Tensor, divergence: Tensor, lm: Tensor, scratch: Scratch
) -> None:
    """Add a chunk's two losses to `divergence` and `lm`, and write its columns of `stats`."""
    s, t = chunk.logits(scratch)
    scored, temperature = chunk.scored, chunk.settings.temperature
    if scored.targets is not None and temperature != 1.0:
        # The LM loss is at temperature 1: a normalisation of its own.
        copy = scratch.get("copy", tuple(s.shape), s.dtype).copy_(s)
        log_q, stats[2] = normalise(copy, 1.0)
        lm -= (picked(log_q, scored.targets) * scored.lm_weight).sum()
    log_q, stats[0] = normalise(s, temperature)
    if scored.targets is not None and temperature == 1.0:
        stats[2] = stats[0]
        lm -= (picked(log_q, scored.targets) * scored.lm_weight).sum()
    log_p, stats[1] = normalise(t, temperature)
    row_value, stats[3] = formulas.value(chunk.settings, log_p, log_q)
    divergence += (row_value * scored.divergence_weight).sum()


def _fused_values(
    chunk: Comparison, stats: Tensor, divergence: Tensor, lm: Tensor, scratch: Scratch
) -> None:
    """Do what `_plain_values` does by the kernel; the logits stay."""
    s, t = chunk.logits(scratch)
    scored = chunk.scored
    row_value, stats[0], stats[1], stats[3] = _fused_statistics(chunk.settings, s, t)
    divergence += (row_value * scored.divergence_weight).sum()
    if scored.targets is not None:
        at_one = chunk.settings.temperature == 1.0
        stats[2] = stats[0] if at_one else _fused_statistics(FORWARD_KL, s, s)[1]
        lm -= ((picked(s, scored.targets) - stats[2]) * scored.lm_weight).sum()


def _slice_gradient(
    part: Comparison,
    v: slice,
    stats: Tensor,
    factors: tuple[Tensor, Tensor],
    fused: bool,
    scratch: Scratch,
) -> Tensor:
    """Return the gradient of the logits of a slice of the vocabulary, for all scored positions."""
    s, t = part.logits(scratch)
    factor, lm_factor = factors
    temperature, targets = part.settings.temperature, part.scored.targets
    lm_part = None
    if targets is not None:
        lm_part = scratch.get("copy", tuple(s.shape), s.dtype)
        exp_(torch.sub(s, stats[2].unsqueeze(1), out=lm_part)).mul_(lm_factor)
        inside = ((targets >= v.start) & (targets < v.stop)).nonzero().squeeze(1)
        lm_part[inside, targets[inside] - v.start] -= lm_factor[inside, 0]
    if fused:
        d = _fused_gradient(part.settings, s, t, stats, factor)
    else:
        log_p, log_q = (
            (x if temperature == 1.0 else x.div_(temperature)).sub_(log_sum.unsqueeze(1))
            for x, log_sum in ((t, stats[1]), (s, stats[0]))
        )
        d = formulas.gradient(part.settings, log_p, log_q, stats[3]).mul_(factor)
    return d if lm_part is None else d.add_(lm_part)


def _fused_statistics(
    settings: Divergence, s: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each row's divergence, log-sum-exp of q and of p, and c, by the kernel."""
    from pipeline.objectives.kernels import rows as fused

    divergence, (top_q, rest_q, top_p, rest_p, c) = fused.values(settings, s, t)
    return divergence, top_q + rest_q, top_p + rest_p, c


def _fused_gradient(
    settings: Divergence, s: Tensor, t: Tensor, stats: Tensor, factor: Tensor
) -> Tensor:
    """Return factor x d divergence / d tempered student logits by the kernel.

    s, t: logits of a slice of the vocabulary; s is overwritten.
    """
    from pipeline.objectives.kernels import rows as fused

    none = torch.zeros_like(stats[0])
    numbers = torch.stack([stats[0], none, stats[1], none, stats[3]])
    fused.gradient_(s, settings, s, t, numbers, factor.squeeze(1))
    return s
