"""The divergences of `formulas` on rows of logits, fused.

A KL takes one sweep of a row, a mixture two.

One program takes one row; only a few numbers a row are written. The gradient is a second kernel,
elementwise from those numbers, so it also serves a slice of the vocabulary at a time. Each position
of the logits is read once a sweep in its own dtype.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.objectives.divergence import Divergence
from pipeline.objectives.kernels.online import MASKED, online

#: Columns a program reads at once: 4096 in fp32 from two rows are 32 registers a thread of 8 warps.
BLOCK = 4096
#: The same for the gradient, which keeps nothing from tile to tile.
GRADIENT_BLOCK = 2048


def values(
    settings: Divergence,
    student: Tensor,
    teacher: Tensor,
    rows: Tensor | None = None,
    *,
    share: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return each row's divergence, (n,) in fp32, and five numbers a row for `gradient_`, (5, n).

    student, teacher: (positions, vocabulary). rows: (n,) int64, which of the positions; all when
    absent. share: the teacher's share of the target's logits, the student's own are the rest
    (`logits.taid_target`). The five numbers are the tempered student's maximum and the log-sum-exp
    above it, the same two of the target, and the c of `formulas.gradient`.
    """
    student, teacher = _rowwise(student), _rowwise(teacher)
    n = len(student) if rows is None else len(rows)
    divergence = torch.empty(n, dtype=torch.float32, device=student.device)
    stats = torch.empty((5, n), dtype=torch.float32, device=student.device)
    if n:
        with torch.cuda.device_of(student):
            _values[(n,)](
                student, teacher, stats if rows is None else rows, divergence, stats,
                student.stride(0), teacher.stride(0), student.shape[1],
                1 / settings.temperature, share, settings.alpha, *_log_shares(settings),
                KIND=settings.kind, TAID=share != 1.0, INDEXED=rows is not None,
                BLOCK=BLOCK, num_warps=8,
            )  # fmt: skip
    return divergence, stats


def gradient_(
    out: Tensor,
    settings: Divergence,
    student: Tensor,
    teacher: Tensor,
    stats: Tensor,
    factor: Tensor,
    rows: Tensor | None = None,
    *,
    share: float = 1.0,
) -> None:
    """Write factor x d divergence / d tempered student logits to the rows of `out`.

    out, student, teacher: (positions, any slice of the vocabulary); `out` may be `student` itself.
    stats: from `values`, of the whole vocabulary. factor: (n,) fp32. Rows of `out` that `rows`
    leaves out are not written.
    """
    student, teacher = _rowwise(student), _rowwise(teacher)
    n = len(student) if rows is None else len(rows)
    if n:
        with torch.cuda.device_of(student):
            _gradient[(n, triton.cdiv(student.shape[1], GRADIENT_BLOCK))](
                student, teacher, stats if rows is None else rows, stats, factor.contiguous(), out,
                student.stride(0), teacher.stride(0), out.stride(0), student.shape[1],
                1 / settings.temperature, share, settings.alpha, *_log_shares(settings),
                KIND=settings.kind, TAID=share != 1.0, INDEXED=rows is not None,
                BLOCK=GRADIENT_BLOCK,
            )  # fmt: skip


@triton.jit
def _values(
    student, teacher, rows, divergence, stats,
    student_row, teacher_row, vocabulary,
    inverse_temperature, share, alpha, log_p_share, log_q_share,
    KIND: tl.constexpr, TAID: tl.constexpr, INDEXED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    row = n
    if INDEXED:
        row = tl.load(rows + n)
    student += row * student_row
    teacher += row * teacher_row
    top_p = tl.full((1,), MASKED, tl.float32)
    top_q = tl.full((1,), MASKED, tl.float32)
    sum_p = tl.zeros((1,), tl.float32)
    sum_q = tl.zeros((1,), tl.float32)
    cross = tl.zeros((1,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        q, p = _tile(student, teacher, start, vocabulary, inverse_temperature, share, TAID, BLOCK)
        if KIND == "reverse_kl":
            top_q, sum_q, top_p, sum_p, cross = online(q, p, top_q, sum_q, top_p, sum_p, cross)
        else:
            top_p, sum_p, top_q, sum_q, cross = online(p, q, top_p, sum_p, top_q, sum_q, cross)
    rest_p = tl.log(sum_p)
    rest_q = tl.log(sum_q)
    if KIND == "forward_kl":
        value = cross / sum_p - rest_p + rest_q
        c = value * 0.0 - 1.0
    elif KIND == "reverse_kl":
        value = cross / sum_q - rest_q + rest_p
        c = value
    else:
        first = tl.zeros((1,), tl.float32)
        second = tl.zeros((1,), tl.float32)
        for start in range(0, vocabulary, BLOCK):
            q, p = _tile(
                student, teacher, start, vocabulary, inverse_temperature, share, TAID, BLOCK
            )
            log_p = p - top_p[:, None] - rest_p[:, None]
            log_q = q - top_q[:, None] - rest_q[:, None]
            log_m = _log_mixture(log_p, log_q, log_p_share, log_q_share)
            if KIND == "jensen_shannon":
                first += tl.sum(tl.exp(log_p) * (log_p - log_m), 1)
                second += tl.sum(tl.exp(log_q) * (log_q - log_m), 1)
            elif KIND == "skew_kl":
                first += tl.sum(tl.exp(log_p) * (log_p - log_m), 1)
                second += tl.sum(tl.exp(log_p + (log_q - log_m)), 1)
            else:
                first += tl.sum(tl.exp(log_q) * (log_q - log_m), 1)
                second += tl.sum(tl.exp(log_q + (log_q - log_m) + log_q_share), 1)
        if KIND == "jensen_shannon":
            value = alpha * first + (1 - alpha) * second
            c = (1 - alpha) * second
        elif KIND == "skew_kl":
            value = first
            c = (alpha - 1) * second
        else:
            value = first
            # log_q_share is log alpha, taken inside so that 0 never meets infinity.
            c = first - second
    at = n + tl.arange(0, 1)
    count = tl.num_programs(0)
    tl.store(divergence + at, value)
    tl.store(stats + at, top_q)
    tl.store(stats + count + at, rest_q)
    tl.store(stats + 2 * count + at, top_p)
    tl.store(stats + 3 * count + at, rest_p)
    tl.store(stats + 4 * count + at, c)


@triton.jit
def _gradient(
    student, teacher, rows, stats, factor, out,
    student_row, teacher_row, out_row, vocabulary,
    inverse_temperature, share, alpha, log_p_share, log_q_share,
    KIND: tl.constexpr, TAID: tl.constexpr, INDEXED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Do what `formulas.gradient` does for a tile of a row."""
    n = tl.program_id(0).to(tl.int64)
    row = n
    if INDEXED:
        row = tl.load(rows + n)
    start = tl.program_id(1) * BLOCK
    q, p = _tile(
        student + row * student_row, teacher + row * teacher_row,
        start, vocabulary, inverse_temperature, share, TAID, BLOCK,
    )  # fmt: skip
    count = tl.num_programs(0)
    stats += n
    log_q = q - tl.load(stats) - tl.load(stats + count)
    log_p = p - tl.load(stats + 2 * count) - tl.load(stats + 3 * count)
    c = tl.load(stats + 4 * count)
    if KIND == "forward_kl":
        d = tl.exp(log_q) - tl.exp(log_p)
    elif KIND == "reverse_kl":
        d = tl.exp(log_q) * (log_q - log_p - c)
    else:
        log_m = _log_mixture(log_p, log_q, log_p_share, log_q_share)
        if KIND == "jensen_shannon":
            d = tl.exp(log_q) * ((1 - alpha) * (log_q - log_m) - c)
        elif KIND == "skew_kl":
            d = (alpha - 1) * tl.exp(log_p + (log_q - log_m)) - c * tl.exp(log_q)
        else:
            d = tl.exp(log_q) * (log_q - log_m - tl.exp(log_q - log_m + log_q_share) - c)
    columns = start + tl.arange(0, BLOCK)[None, :]
    d = (d * tl.load(factor + n)).to(out.dtype.element_ty)
    tl.store(out + row * out_row + columns, d, mask=columns < vocabulary)


@triton.jit
def _tile(
    student, teacher, start, vocabulary,
    inverse_temperature, share, TAID: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return a row's tempered student logits and those of its target, (1, BLOCK) each.

    Past the vocabulary they are MASKED.
    """
    columns = start + tl.arange(0, BLOCK)[None, :]
    inside = columns < vocabulary
    q = tl.load(student + columns, mask=inside, other=0.0).to(tl.float32)
    p = tl.load(teacher + columns, mask=inside, other=0.0).to(tl.float32)
    if TAID:
        p = share * p + (1 - share) * q
    q = tl.where(inside, q * inverse_temperature, MASKED)
    p = tl.where(inside, p * inverse_temperature, MASKED)
    return q, p


@triton.jit
def _log_mixture(log_p, log_q, log_p_share, log_q_share):
    p = log_p + log_p_share
    q = log_q + log_q_share
    top = tl.maximum(p, q)
    return top + tl.log(1 + tl.exp(tl.minimum(p, q) - top))


def _log_shares(settings: Divergence) -> tuple[float, float]:
    """Return the log of the teacher's and of the student's share of the mixture.

    A share of 0 is as good as e^MASKED.
    """
    share = 1 - settings.alpha if settings.kind == "skew_reverse_kl" else settings.alpha
    p, q = (math.log(x) if x > 0 else -1e30 for x in (share, 1 - share))
    return p, q


def _rowwise(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
