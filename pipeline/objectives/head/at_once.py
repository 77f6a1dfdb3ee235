"""The head's losses with their gradients made in the forward pass, for models whose products cost more than memory does.

The gradient of a weighted sum of two losses is linear in what the backward pass will bring, so where the weights are known
beforehand it can be made while the logits are there: four products instead of the six of `recomputed`, as plain autograd has.
The weight's gradient is summed over blocks of positions, which is exact enough in fp32 or fp64 and not in bf16; hence only
where logits and weight have the wide dtype. (Fused heads that do this for cross-entropy alone: Liger Kernel, arXiv 2410.10989.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives import formulas
from pipeline.objectives.head.chunks import budget, logits_of, scored_rows
from pipeline.objectives.scratch import Scratch, exp_, log_softmax_, wide_dtype

#: Chunks of logits in one block, whose products are taken together: each block passes over the weight's whole gradient once.
CHUNKS_PER_BLOCK = 2


class AtOnce(torch.autograd.Function):
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
        loss_weights: tuple[float, float],
    ) -> tuple[Tensor, Tensor]:
        kind, temperature, alpha, share, scale, teacher_scale, chunk = settings
        wide = wide_dtype(hidden)
        rows, div_weight, lm_weight, targets = scored_rows(
            hidden, divergence_rows, label_rows, labels, temperature, wide
        )
        h = hidden.reshape(-1, hidden.shape[-1])[rows]
        th = teacher_hidden.reshape(-1, teacher_hidden.shape[-1])[rows].masked_fill(
            (div_weight == 0).unsqueeze(1), 0
        )
        tw = teacher_weight.to(th.dtype)
        size = chunk or max(1, budget(hidden) // weight.shape[0])

        divergence = torch.zeros((), dtype=wide, device=hidden.device)
        lm = torch.zeros_like(divergence)
        sum_h = torch.empty_like(h)
        grad_w = torch.empty_like(weight) if len(rows) else torch.zeros_like(weight)
        grad_bias = torch.zeros_like(bias) if bias is not None else None
        # One temperature is the logits' own 1/temperature, the other is left of temperature^2 in div_weight.
        div_factor = (loss_weights[0] * div_weight / temperature).unsqueeze(1)
        lm_factor = (loss_weights[1] * lm_weight).unsqueeze(1)
        scratch = Scratch(hidden.device)
        for first in range(0, len(rows), size * CHUNKS_PER_BLOCK):
            b = slice(first, min(first + size * CHUNKS_PER_BLOCK, len(rows)))
            block_s = logits_of(scratch, "s", h[b], weight, bias, scale, wide)
            block_t = logits_of(scratch, "t", th[b], tw, teacher_bias, teacher_scale, wide)
            for start in range(b.start, b.stop, size):
                r = slice(start, min(start + size, b.stop))
                s, t = (x[r.start - b.start : r.stop - b.start] for x in (block_s, block_t))
                if share != 1.0:
                    t.lerp_(s, 1 - share)
                lm_part = None
                if targets is not None:
                    log_q = scratch.get("lm", tuple(s.shape), wide).copy_(s)
                    log_q = log_softmax_(log_q)
                    lm -= (log_q.gather(1, targets[r].unsqueeze(1)).squeeze(1) * lm_weight[r]).sum()
                    lm_part = exp_(log_q).mul_(lm_factor[r])
                    lm_part.scatter_add_(1, targets[r].unsqueeze(1), -lm_factor[r])
                log_q, log_p = (
                    log_softmax_(x if temperature == 1.0 else x.div_(temperature)) for x in (s, t)
                )
                spare = (
                    scratch.get("p", tuple(s.shape), wide),
                    scratch.get("q", tuple(s.shape), wide),
                )
                row_value, d = formulas.value_and_gradient(kind, log_p, log_q, alpha, spare)
                divergence += (row_value * div_weight[r]).sum()
                d.mul_(div_factor[r])
                if lm_part is not None:
                    d.add_(lm_part)
                if d.data_ptr() != s.data_ptr():
                    s.copy_(d)
            if grad_bias is not None:
                grad_bias += block_s.sum(0)
            if scale != 1.0:
                block_s.mul_(scale)
            torch.mm(block_s, weight, out=sum_h[b])
            grad_w.addmm_(block_s.t(), h[b], beta=0 if first == 0 else 1)
        ctx.save_for_backward(rows, sum_h, grad_w, grad_bias)
        ctx.shape, ctx.loss_weights = hidden.shape, loss_weights
        return divergence, lm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_divergence: Tensor, grad_lm: Tensor) -> tuple[Tensor | None, ...]:
        rows, sum_h, grad_w, grad_bias = ctx.saved_tensors
        promised = grad_divergence.new_tensor(ctx.loss_weights)
        brought = torch.stack([grad_divergence, grad_lm])
        factor = (brought @ promised) / (promised @ promised)
        if not torch.allclose(brought, factor * promised, rtol=1e-5, atol=0):
            raise RuntimeError(
                f"the losses were weighted as {brought.tolist()}, which is no multiple of the promised {ctx.loss_weights}"
            )
        grad_h = sum_h.new_zeros((ctx.shape[:-1].numel(), ctx.shape[-1]))
        grad_h = grad_h.index_copy_(0, rows, sum_h.mul(factor)).view(ctx.shape)
        grad_bias = None if grad_bias is None else grad_bias * factor
        # Usually the factor is 1, and the largest tensor here is handed on as it is.
        grad_w = grad_w if factor == 1 else grad_w * factor
        return (grad_h, grad_w, grad_bias, None, None, None, None, None, None, None, None)
