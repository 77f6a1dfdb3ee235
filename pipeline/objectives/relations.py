"""MiniLMv2 relation losses in linear memory.

A relation is what attention computes, between any two of q, k and v, with the heads cut again: both
models get the same number of relation heads, with any heads and widths of their own. So their
(length x length) distributions compare.

Memory: relations are made a few heads at a time. The loss is one number, so its gradient with
respect to a chunk of scores is known as soon as the chunk's value is. It is taken to the inputs at
once, and only those gradients, as large as the inputs, are kept for the backward pass. Nothing is
computed twice and no (heads x length x length) tensor survives. On CUDA a fused kernel does the
same without any score in memory (`kernels.relations`), where `kernels.usable` says so.

Source: Wang et al. 2021, MiniLMv2, https://arxiv.org/abs/2012.15828, section 3.1, equations 4 to 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives import kernels
from pipeline.objectives.scratch import Scratch, chunk_size, log_softmax_, wide_dtype

#: Scores in one chunk on a GPU; `scratch` says how many on a CPU.
CHUNK_CUDA = 1 << 25
#: Rows of a causal block: keys after the block's last row are never computed.
CAUSAL_ROWS = 128
#: The value of a masked score. It is finite, so that a row with nothing to see has a uniform
#: relation and a zero gradient rather than NaN. It is so low that exp() of it is exactly 0 next to
#: any real score.
MASKED = -1e38


def relation_loss(
    teacher: tuple[Tensor, Tensor],
    student: tuple[Tensor, Tensor],
    *,
    relation_heads: int,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Return KL(teacher || student) between the relations of two projections.

    It is a scalar in fp32 (fp64 for fp64 inputs).

    teacher, student: (a, b), the raw projections before the split into heads:
        a (batch, L_a, width), b (batch, L_b, width). Widths may differ between the models. The
        relation of head r is softmax(A_r B_r^T / sqrt(width / relation_heads)) over b's rows. Give
        the same tensor twice for Q-Q, K-K or V-V.
    query_mask (batch, L_a), key_mask (batch, L_b): bool or int, 1 = valid; all valid when absent.
    causal: row i sees b's rows up to i only; needs L_a = L_b.

    The mean is over relation heads, then over each sequence's valid rows, then over sequences that
    have any, as in equation 5 of the paper. A row that sees no valid key is not valid. Gradients
    flow to the student alone. Products are taken in the inputs' dtype (fp16 is raised to fp32
    first, because 1e4 squared would overflow in it), softmax and sums in fp32. Raises ValueError
    where shapes, widths or masks do not fit.
    """
    (ta, tb), (sa, sb) = teacher, student
    _check(ta, tb, sa, sb, relation_heads, causal)
    batch, rows, columns = sa.shape[0], sa.shape[1], sb.shape[1]
    keys = _mask(key_mask, batch, columns, "key_mask")
    wide = wide_dtype(sa)
    weight = (
        _row_weights(_mask(query_mask, batch, rows, "query_mask"), keys, causal, sa, columns, wide)
        / relation_heads
    )
    track = torch.is_grad_enabled() and (sa.requires_grad or sb.requires_grad)
    loss: Tensor = _Relation.apply(
        sa, sb, *_detach(ta, tb), weight, keys, relation_heads, causal, track
    )
    return loss


def relations_loss(
    teacher: Mapping[str, Tensor],
    student: Mapping[str, Tensor],
    pairs: Iterable[tuple[str, str]],
    *,
    relation_heads: int,
    masks: Mapping[str, Tensor | None] | None = None,
    causal: bool = False,
) -> Tensor:
    """Return the mean of `relation_loss` over pairs of names, e.g. [("q", "q"), ("k", "k")].

    teacher, student: projections by name, (batch, length, width) each. masks: the padding mask of
    each name's rows.
    """
    masks = masks or {}
    losses = [
        relation_loss(
            (teacher[a], teacher[b]),
            (student[a], student[b]),
            relation_heads=relation_heads,
            query_mask=masks.get(a),
            key_mask=masks.get(b),
            causal=causal,
        )
        for a, b in pairs
    ]
    if not losses:
        raise ValueError("relations_loss needs at least one pair")
    return torch.stack(losses).mean()


class _Relation(torch.autograd.Function):
    """Value and gradients in one pass over chunks; see the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        sa: Tensor,
        sb: Tensor,
        ta: Tensor,
        tb: Tensor,
        weight: Tensor,
        keys: Tensor | None,
        heads: int,
        causal: bool,
        track: bool,
    ) -> Tensor:
        if kernels.usable(sa, sb, ta, tb):
            from pipeline.objectives.kernels import relations as fused

            if fused.fits(sa, ta, heads):
                loss, grad_a, grad_b = fused.value_and_gradients(
                    sa, sb, ta, tb, weight, keys, heads, causal, track
                )
                if grad_a is not None and grad_b is not None:
                    ctx.save_for_backward(grad_a, grad_b)
                return loss
        batch, rows, columns = sa.shape[0], sa.shape[1], sb.shape[1]
        wide = weight.dtype
        s_scale, t_scale = 1 / math.sqrt(sa.shape[2] // heads), 1 / math.sqrt(ta.shape[2] // heads)
        student_a, teacher_a = _split(sa, heads), _split(ta, heads)
        student_b = student_a if sb is sa else _split(sb, heads)
        teacher_b = teacher_a if tb is ta else _split(tb, heads)
        row_weight = weight.repeat_interleave(heads, 0).unsqueeze(-1)  # (batch * heads, rows, 1)
        hidden = (
            None if keys is None else (~keys).repeat_interleave(heads, 0).unsqueeze(1)
        )  # (batch * heads, 1, columns)

        total = torch.zeros((), dtype=wide, device=sa.device)
        grad_a = torch.empty_like(student_a) if track else None
        grad_b = torch.empty_like(student_b) if track else None
        scratch = Scratch(sa.device)
        groups, block = _chunks(batch * heads, rows, columns, causal, sa.device)
        for g0 in range(0, batch * heads, groups):
            g = slice(g0, g0 + groups)
            sum_b = (
                None
                if grad_b is None
                else torch.zeros(grad_b[g].shape, dtype=wide, device=sa.device)
            )
            for r0 in range(0, rows, block):
                r = slice(r0, min(r0 + block, rows))
                seen = slice(0, r.stop if causal else columns)
                s = _scores(scratch, "s", student_a[g, r], student_b[g, seen], s_scale, wide)
                t = _scores(scratch, "t", teacher_a[g, r], teacher_b[g, seen], t_scale, wide)
                if hidden is not None:
                    s.masked_fill_(hidden[g, :, seen], MASKED)
                    t.masked_fill_(hidden[g, :, seen], MASKED)
                if causal:
                    later = torch.ones(
                        r.stop - r0, r.stop, dtype=torch.bool, device=sa.device
                    ).triu_(r0 + 1)
                    s.masked_fill_(later, MASKED)
                    t.masked_fill_(later, MASKED)
                p = torch.softmax(t, -1, out=scratch.get("p", s.shape, wide))
                q = torch.softmax(s, -1, out=scratch.get("q", s.shape, wide)) if track else None
                kl = log_softmax_(t).sub_(log_softmax_(s)).mul_(p).sum(-1, keepdim=True)
                total += (kl * row_weight[g, r]).sum()
                if q is None or grad_a is None or grad_b is None or sum_b is None:
                    continue
                # d KL / d scores = q - p, row by row.
                d = q.sub_(p).mul_(row_weight[g, r] * s_scale)
                if d.dtype != student_a.dtype:
                    d = scratch.get("raw", d.shape, student_a.dtype).copy_(d)
                grad_a[g, r] = torch.bmm(d, student_b[g, seen])
                sum_b[:, seen] += torch.bmm(d.transpose(1, 2), student_a[g, r])
            if grad_b is not None and sum_b is not None:
                grad_b[g] = sum_b.to(grad_b.dtype)
        if grad_a is not None and grad_b is not None:
            ctx.save_for_backward(_join(grad_a, sa), _join(grad_b, sb))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_a, grad_b = ctx.saved_tensors
        a = grad_a * grad.to(grad_a.dtype) if ctx.needs_input_grad[0] else None
        b = grad_b * grad.to(grad_b.dtype) if ctx.needs_input_grad[1] else None
        return (a, b, None, None, None, None, None, None, None)


def _scores(
    scratch: Scratch, name: str, a: Tensor, b: Tensor, scale: float, wide: torch.dtype
) -> Tensor:
    shape = (a.shape[0], a.shape[1], b.shape[1])
    out = scratch.get(name, shape, wide)
    if a.dtype == wide:
        return torch.bmm(a, b.transpose(1, 2), out=out).mul_(scale)
    raw = torch.bmm(a, b.transpose(1, 2), out=scratch.get("raw", shape, a.dtype))
    return out.copy_(raw).mul_(scale)


def _detach(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both detached, still the same tensor if they were."""
    first = a.detach()
    return first, first if b is a else b.detach()


def _split(x: Tensor, heads: int) -> Tensor:
    """Turn (batch, length, width) into (batch * heads, length, width / heads), contiguous."""
    batch, length, width = x.shape
    x = x.float() if x.dtype == torch.float16 else x
    return (
        x.view(batch, length, heads, width // heads)
        .transpose(1, 2)
        .reshape(batch * heads, length, width // heads)
    )


def _join(x: Tensor, like: Tensor) -> Tensor:
    """Undo `_split`; returns the dtype and shape of `like`."""
    batch, length, width = like.shape
    heads = x.shape[0] // max(batch, 1)
    return (
        x.view(batch, heads, length, -1)
        .transpose(1, 2)
        .reshape(batch, length, width)
        .to(like.dtype)
    )


def _chunks(
    groups: int, rows: int, columns: int, causal: bool, device: torch.device
) -> tuple[int, int]:
    """Return the numbers of (sequence, head) groups and of rows in one chunk."""
    budget = chunk_size(device, CHUNK_CUDA)
    block = max(1, min(rows, budget // max(columns, 1)))
    if causal:
        block = min(block, CAUSAL_ROWS)
    return max(1, min(groups, budget // max(block * columns, 1))), block


def _row_weights(
    queries: Tensor | None,
    keys: Tensor | None,
    causal: bool,
    like: Tensor,
    columns: int,
    wide: torch.dtype,
) -> Tensor:
    """Return each row's weight in the mean, (batch, rows), 0 where the row is not valid.

    It is 1 / (the sequence's valid rows x the sequences with any).
    """
    valid = (
        torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
        if queries is None
        else queries
    )
    if keys is not None:
        valid = valid & (keys.cumsum(1) > 0 if causal else keys.any(1, keepdim=True))
    count = valid.sum(1, keepdim=True)
    sequences = (count > 0).sum().clamp(min=1)
    return valid.to(wide) / (count.clamp(min=1) * sequences).to(wide)


def _mask(mask: Tensor | None, batch: int, length: int, name: str) -> Tensor | None:
    if mask is None:
        return None
    if tuple(mask.shape) != (batch, length):
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; "
            f"it must be (batch, length) = ({batch}, {length})"
        )
    return mask.bool()


def _check(ta: Tensor, tb: Tensor, sa: Tensor, sb: Tensor, heads: int, causal: bool) -> None:
    for who, a, b in (("teacher", ta, tb), ("student", sa, sb)):
        if a.dim() != 3 or b.dim() != 3 or a.shape[2] != b.shape[2] or a.shape[0] != b.shape[0]:
            raise ValueError(
                f"the {who}'s projections have shapes {tuple(a.shape)} and {tuple(b.shape)}; "
                "give two of (batch, length, width) with the same batch and width"
            )
        if heads < 1 or a.shape[2] % heads:
            raise ValueError(
                f"the {who}'s width {a.shape[2]} does not divide into {heads} relation heads; "
                "set objective.relation_heads to a divisor of both models' widths"
            )
    if ta.shape[:2] != sa.shape[:2] or tb.shape[:2] != sb.shape[:2]:
        raise ValueError(
            f"teacher and student differ in batch or length: {tuple(ta.shape[:2])}, "
            f"{tuple(tb.shape[:2])} and {tuple(sa.shape[:2])}, {tuple(sb.shape[:2])}"
        )
    if causal and sa.shape[1] != sb.shape[1]:
        raise ValueError(
            f"a causal relation needs as many rows as columns, not {sa.shape[1]} and {sb.shape[1]}"
        )
