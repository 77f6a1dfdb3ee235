"""The head's losses with their gradients made in the forward pass.

For models whose products cost more than memory does. The gradient of a weighted sum of two losses
is linear in what the backward pass will bring. So where the weights are known beforehand it can be
made while the logits are there: four products, as plain autograd has, instead of the six of
`recomputed`. The weight's gradient is summed over blocks of positions, which is exact enough in
fp32 or fp64 and not in bf16; hence only where logits and weight have the wide dtype.
(Fused heads that do this for cross-entropy alone: Liger Kernel, arXiv 2410.10989.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives import formulas
from pipeline.objectives.divergence import Divergence
from pipeline.objectives.head.comparison import Comparison, Scored, picked
from pipeline.objectives.head.predictor import Predictor
from pipeline.objectives.scratch import Scratch, chunk_size, exp_, log_softmax_

#: Chunks of logits in one block, whose products are taken together: each block passes over the
#: weight's whole gradient once.
CHUNKS_PER_BLOCK = 2


class LossWeights(NamedTuple):
    """A promise of how the head's two losses are weighted.

    What is differentiated is a multiple of `divergence` x the divergence + `lm` x the LM loss, and
    nothing else of these two. The backward pass raises RuntimeError where that does not hold.
    """

    divergence: float
    lm: float


class AtOnce(torch.autograd.Function):
    """Four products; keeps the gradients."""

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
        weights: LossWeights,
    ) -> tuple[Tensor, Tensor]:
        h = hidden.reshape(-1, hidden.shape[-1])[scored.rows]
        student = Predictor(h, weight, scale, bias)
        compared = Comparison(student, teacher.cast(), scored, settings, share)
        size = max(1, chunk_size(h.device) // weight.shape[0])
        divergence = torch.zeros((), dtype=h.dtype, device=h.device)
        lm = torch.zeros_like(divergence)
        grad_h = torch.empty_like(h)
        grad_w = torch.empty_like(weight) if len(h) else torch.zeros_like(weight)
        grad_bias = torch.zeros_like(bias) if bias is not None else None
        scratch = Scratch(h.device)
        for first in range(0, len(h), size * CHUNKS_PER_BLOCK):
            b = slice(first, first + size * CHUNKS_PER_BLOCK)
            d = _block_gradient(compared.rows(b), weights, size, (divergence, lm), scratch)
            if grad_bias is not None:
                grad_bias += d.sum(0)
            if scale != 1.0:
                d.mul_(scale)
            torch.mm(d, weight, out=grad_h[b])
            grad_w.addmm_(d.t(), h[b], beta=0 if first == 0 else 1)
        ctx.save_for_backward(scored.rows, grad_h, grad_w, grad_bias)
        ctx.shape, ctx.weights = hidden.shape, weights
        return divergence, lm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_divergence: Tensor, grad_lm: Tensor) -> tuple[Tensor | None, ...]:
        rows, own_h, own_w, own_bias = ctx.saved_tensors
        promised = grad_divergence.new_tensor(ctx.weights)
        brought = torch.stack([grad_divergence, grad_lm])
        factor = (brought @ promised) / (promised @ promised)
        if not torch.allclose(brought, factor * promised, rtol=1e-5, atol=0):
            raise RuntimeError(
                f"the losses were weighted as {brought.tolist()}, "
                f"which is no multiple of the promised {tuple(ctx.weights)}"
            )
        grad_h = own_h.new_zeros((ctx.shape[:-1].numel(), ctx.shape[-1]))
        grad_h = grad_h.index_copy_(0, rows, own_h.mul(factor)).view(ctx.shape)
        grad_bias = None if own_bias is None else own_bias * factor
        # Usually the factor is 1, and the largest tensor here is handed on as it is.
        grad_w = own_w if factor == 1 else own_w * factor
        return (grad_h, grad_w, grad_bias, *[None] * 6)


def _block_gradient(
    block: Comparison,
    weights: LossWeights,
    size: int,
    sums: tuple[Tensor, Tensor],
    scratch: Scratch,
) -> Tensor:
    """Return the gradient of a block of logits, made in chunks of `size` positions.

    It overwrites the logits. The block's losses are added to `sums`.
    """
    divergence, lm = sums
    block_s, block_t = block.logits(scratch)
    for start in range(0, len(block_s), size):
        r = slice(start, start + size)
        s, t, scored = block_s[r], block_t[r], block.scored.part(r)
        factor, lm_factor = scored.factors(*weights, block.settings.temperature)
        lm_part = None
        if scored.targets is not None:
            log_q = log_softmax_(scratch.get("lm", tuple(s.shape), s.dtype).copy_(s))
            lm -= (picked(log_q, scored.targets) * scored.lm_weight).sum()
            lm_part = exp_(log_q).mul_(lm_factor)
            lm_part.scatter_add_(1, scored.targets.unsqueeze(1), -lm_factor)
        row_value, d = _divergence(s, t, block.settings, scratch)
        divergence += (row_value * scored.divergence_weight).sum()
        d.mul_(factor)
        if lm_part is not None:
            d.add_(lm_part)
        if d.data_ptr() != s.data_ptr():
            s.copy_(d)
    return block_s


def _divergence(
    s: Tensor, t: Tensor, settings: Divergence, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Return each row's divergence and its gradient; overwrites both logits."""
    log_q, log_p = (
        log_softmax_(x if settings.temperature == 1.0 else x.div_(settings.temperature))
        for x in (s, t)
    )
    shape = tuple(s.shape)
    spare = (scratch.get("p", shape, s.dtype), scratch.get("q", shape, s.dtype))
    return formulas.value_and_gradient(settings, log_p, log_q, spare)
