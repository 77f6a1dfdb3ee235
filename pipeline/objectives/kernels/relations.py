"""The KL of relations and the student's gradients, fused.

Scores live in registers, a tile at a time. One program takes a block of rows of one (sequence,
relation head): it sweeps the keys once for the KL and the softmax statistics (see `online`) and,
where gradients are wanted, once more for the rows' gradient. A second kernel takes a block of keys
and sweeps the rows for theirs. Scores are made three times in all and never stored. There are no
atomics, so results repeat bit for bit.

Heads are read where they lie in (batch, length, width). A head size that is not a power of two, or
below 16, the least that a tensor-core product takes, is padded with zeros on the chip.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.objectives.kernels.online import MASKED, online

#: The widest head a program can hold: its tiles of all four inputs must fit in shared memory, which
#: is 99 KiB on the smallest GPU.
MAX_HEAD = 256
#: Rows and keys of a tile: the most with which two tiles of scores stay in registers where products
#: are in bf16.
BLOCK = 64
#: The same in fp32, whose products take more of them.
WIDE_BLOCK = 32
#: Bytes of one input's tile, to which wide heads cut the rows down; never below the 16 rows that a
#: product takes.
TILE_BYTES = 8192


def fits(sa: Tensor, ta: Tensor, heads: int) -> bool:
    """Return whether both models' relation heads are narrow enough."""
    return max(sa.shape[2], ta.shape[2]) <= MAX_HEAD * heads


def value_and_gradients(
    sa: Tensor,
    sb: Tensor,
    ta: Tensor,
    tb: Tensor,
    weight: Tensor,
    keys: Tensor | None,
    heads: int,
    causal: bool,
    track: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return (loss, d loss / d sa, d loss / d sb).

    The loss is a scalar in fp32; with `track` the gradients are in sa's and sb's dtypes, else None.

    sa, ta: (batch, rows, width). sb, tb: (batch, columns, width). weight: (batch, rows) fp32, the
    share of each row's KL (the mean over heads included). keys: (batch, columns) bool, or None
    where every key is valid.
    """
    sa, sb, ta, tb = (x if x.stride(-1) == 1 else x.contiguous() for x in (sa, sb, ta, tb))
    batch, rows, columns = sa.shape[0], sa.shape[1], sb.shape[1]
    groups = batch * heads
    s_head, t_head = sa.shape[2] // heads, ta.shape[2] // heads
    s_pad, t_pad = _padded(s_head), _padded(t_head)
    s_dot, t_dot = _product_dtype(sa), _product_dtype(ta)
    block = _block(max(s_pad, t_pad), narrow=s_dot == t_dot == tl.bfloat16)
    values = torch.empty((groups, rows), dtype=torch.float32, device=sa.device)
    stats = torch.empty((groups, rows, 4) if track else 0, dtype=torch.float32, device=sa.device)
    grad_a, grad_b = (
        torch.empty_like(x, memory_format=torch.contiguous_format) if track else x for x in (sa, sb)
    )
    weight = weight.contiguous()
    # The kernel needs a tensor here; without keys it is not read.
    mask = sa if keys is None else keys.to(torch.int8)
    shapes = (rows, columns, 1 / math.sqrt(s_head), 1 / math.sqrt(t_head))
    strides = [stride for x in (sa, sb, ta, tb) for stride in x.stride()[:2]]
    constants = {
        "HEADS": heads,
        "S_HEAD": s_head,
        "T_HEAD": t_head,
        "S_PAD": s_pad,
        "T_PAD": t_pad,
        "S_DOT": s_dot,
        "T_DOT": t_dot,
        "S_PRECISION": _precision(sa),
        "T_PRECISION": _precision(ta),
        "KEYS": keys is not None,
        "CAUSAL": causal,
        "BLOCK": block,
        "num_warps": 4,
        "num_stages": 2,
    }
    inputs = (sa, sb, ta, tb, mask, weight, stats)
    with torch.cuda.device_of(sa):
        if values.numel():
            _rows[(groups, triton.cdiv(rows, block))](
                *inputs, values, grad_a, *shapes, *strides, TRACK=track, **constants
            )
        if track and sb.numel():
            _columns[(groups, triton.cdiv(columns, block))](
                *inputs, grad_b, *shapes, *strides, **constants
            )
    return values.sum(), grad_a if track else None, grad_b if track else None


@triton.jit
def _rows(
    sa, sb, ta, tb, keys, weight, stats, values, grad,
    rows, columns, s_scale, t_scale,
    sa_batch, sa_row, sb_batch, sb_row, ta_batch, ta_row, tb_batch, tb_row,
    HEADS: tl.constexpr, S_HEAD: tl.constexpr, T_HEAD: tl.constexpr,
    S_PAD: tl.constexpr, T_PAD: tl.constexpr,
    S_DOT: tl.constexpr, T_DOT: tl.constexpr, S_PRECISION: tl.constexpr, T_PRECISION: tl.constexpr,
    KEYS: tl.constexpr, CAUSAL: tl.constexpr, BLOCK: tl.constexpr, TRACK: tl.constexpr,
):  # fmt: skip
    """Each row's weighted KL and, with TRACK, its softmax statistics and its gradient."""
    group = tl.program_id(0).to(tl.int64)
    batch, head = group // HEADS, group % HEADS
    r = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sb += batch * sb_batch + head * S_HEAD
    tb += batch * tb_batch + head * T_HEAD
    keys += batch * columns
    s_rows = _load(sa + batch * sa_batch + head * S_HEAD, r, rows, sa_row, S_HEAD, S_PAD).to(S_DOT)
    t_rows = _load(ta + batch * ta_batch + head * T_HEAD, r, rows, ta_row, T_HEAD, T_PAD).to(T_DOT)
    w = tl.load(weight + batch * rows + r, mask=r < rows, other=0.0)

    top_t = tl.full((BLOCK,), MASKED, tl.float32)
    top_s = tl.full((BLOCK,), MASKED, tl.float32)
    sum_t = tl.zeros((BLOCK,), tl.float32)
    sum_s = tl.zeros((BLOCK,), tl.float32)
    cross = tl.zeros((BLOCK,), tl.float32)
    stop = columns
    if CAUSAL:
        stop = tl.minimum(columns, (tl.program_id(1) + 1) * BLOCK)
    for start in range(0, stop, BLOCK):
        c = start + tl.arange(0, BLOCK)
        seen = _seen(r, c, columns, keys, KEYS, CAUSAL)
        s_keys = _load(sb, c, columns, sb_row, S_HEAD, S_PAD).to(S_DOT)
        t_keys = _load(tb, c, columns, tb_row, T_HEAD, T_PAD).to(T_DOT)
        s = _scores(s_rows, s_keys, s_scale, seen, S_PRECISION)
        t = _scores(t_rows, t_keys, t_scale, seen, T_PRECISION)
        top_t, sum_t, top_s, sum_s, cross = online(t, s, top_t, sum_t, top_s, sum_s, cross)
    kl = cross / sum_t - tl.log(sum_t) + tl.log(sum_s)
    at = group * rows + r
    tl.store(values + at, tl.where(w > 0, kl * w, 0.0), mask=r < rows)

    if TRACK:
        tl.store(stats + 4 * at, top_t, mask=r < rows)
        tl.store(stats + 4 * at + 1, sum_t, mask=r < rows)
        tl.store(stats + 4 * at + 2, top_s, mask=r < rows)
        tl.store(stats + 4 * at + 3, sum_s, mask=r < rows)
        total = tl.zeros((BLOCK, S_PAD), tl.float32)
        for start in range(0, stop, BLOCK):
            c = start + tl.arange(0, BLOCK)
            seen = _seen(r, c, columns, keys, KEYS, CAUSAL)
            s_keys = _load(sb, c, columns, sb_row, S_HEAD, S_PAD).to(S_DOT)
            t_keys = _load(tb, c, columns, tb_row, T_HEAD, T_PAD).to(T_DOT)
            s = _scores(s_rows, s_keys, s_scale, seen, S_PRECISION)
            t = _scores(t_rows, t_keys, t_scale, seen, T_PRECISION)
            d = _difference(s, t, top_t, sum_t, top_s, sum_s, w)
            total += tl.dot(d.to(S_DOT), s_keys, input_precision=S_PRECISION)
        _store(
            grad + batch * rows * HEADS * S_HEAD + head * S_HEAD,
            total * s_scale,
            r,
            rows,
            HEADS,
            S_HEAD,
            S_PAD,
        )


@triton.jit
def _columns(
    sa, sb, ta, tb, keys, weight, stats, grad,
    rows, columns, s_scale, t_scale,
    sa_batch, sa_row, sb_batch, sb_row, ta_batch, ta_row, tb_batch, tb_row,
    HEADS: tl.constexpr, S_HEAD: tl.constexpr, T_HEAD: tl.constexpr,
    S_PAD: tl.constexpr, T_PAD: tl.constexpr,
    S_DOT: tl.constexpr, T_DOT: tl.constexpr, S_PRECISION: tl.constexpr, T_PRECISION: tl.constexpr,
    KEYS: tl.constexpr, CAUSAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of keys, from the statistics that `_rows` left."""
    group = tl.program_id(0).to(tl.int64)
    batch, head = group // HEADS, group % HEADS
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sa += batch * sa_batch + head * S_HEAD
    ta += batch * ta_batch + head * T_HEAD
    keys += batch * columns
    s_keys = _load(sb + batch * sb_batch + head * S_HEAD, c, columns, sb_row, S_HEAD, S_PAD).to(
        S_DOT
    )
    t_keys = _load(tb + batch * tb_batch + head * T_HEAD, c, columns, tb_row, T_HEAD, T_PAD).to(
        T_DOT
    )
    stats += 4 * group * rows
    total = tl.zeros((BLOCK, S_PAD), tl.float32)
    first = 0
    if CAUSAL:
        first = tl.program_id(1) * BLOCK
    for start in range(first, rows, BLOCK):
        r = start + tl.arange(0, BLOCK)
        seen = _seen(r, c, columns, keys, KEYS, CAUSAL)
        s_rows = _load(sa, r, rows, sa_row, S_HEAD, S_PAD).to(S_DOT)
        t_rows = _load(ta, r, rows, ta_row, T_HEAD, T_PAD).to(T_DOT)
        s = _scores(s_rows, s_keys, s_scale, seen, S_PRECISION)
        t = _scores(t_rows, t_keys, t_scale, seen, T_PRECISION)
        w = tl.load(weight + batch * rows + r, mask=r < rows, other=0.0)
        top_t = tl.load(stats + 4 * r, mask=r < rows, other=0.0)
        sum_t = tl.load(stats + 4 * r + 1, mask=r < rows, other=1.0)
        top_s = tl.load(stats + 4 * r + 2, mask=r < rows, other=0.0)
        sum_s = tl.load(stats + 4 * r + 3, mask=r < rows, other=1.0)
        d = _difference(s, t, top_t, sum_t, top_s, sum_s, w)
        total += tl.dot(tl.trans(d).to(S_DOT), s_rows, input_precision=S_PRECISION)
    _store(
        grad + batch * columns * HEADS * S_HEAD + head * S_HEAD,
        total * s_scale,
        c,
        columns,
        HEADS,
        S_HEAD,
        S_PAD,
    )


@triton.jit
def _load(base, index, count, stride, HEAD: tl.constexpr, PAD: tl.constexpr):
    """Return one head's rows `index`, (block, PAD), zeros past the last row and past the head."""
    d = tl.arange(0, PAD)
    inside = (index[:, None] < count) & (d[None, :] < HEAD)
    return tl.load(base + index[:, None].to(tl.int64) * stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, x, index, count, HEADS: tl.constexpr, HEAD: tl.constexpr, PAD: tl.constexpr):
    d = tl.arange(0, PAD)
    inside = (index[:, None] < count) & (d[None, :] < HEAD)
    at = base + index[:, None].to(tl.int64) * (HEADS * HEAD) + d[None, :]
    tl.store(at, x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _seen(r, c, columns, keys, KEYS: tl.constexpr, CAUSAL: tl.constexpr):
    """Return whether each row of a tile sees each key, (rows, keys)."""
    valid = c < columns
    if KEYS:
        valid = valid & (tl.load(keys + c, mask=valid, other=0) != 0)
    seen = (r[:, None] >= 0) & valid[None, :]
    if CAUSAL:
        seen = seen & (c[None, :] <= r[:, None])
    return seen


@triton.jit
def _scores(a, b, scale, seen, PRECISION: tl.constexpr):
    return tl.where(seen, tl.dot(a, tl.trans(b), input_precision=PRECISION) * scale, MASKED)


@triton.jit
def _difference(s, t, top_t, sum_t, top_s, sum_s, w):
    """Return d loss / d scores, w (q - p).

    A score made in another order may top its row's maximum by a rounding: cut it.
    """
    q = tl.exp(tl.minimum(s - top_s[:, None], 0.0)) / sum_s[:, None]
    p = tl.exp(tl.minimum(t - top_t[:, None], 0.0)) / sum_t[:, None]
    return (q - p) * w[:, None]


def _padded(head: int) -> int:
    return max(16, triton.next_power_of_2(head))


def _block(pad: int, narrow: bool) -> int:
    return min(BLOCK if narrow else WIDE_BLOCK, max(16, TILE_BYTES // (pad * (2 if narrow else 4))))


def _product_dtype(x: Tensor) -> tl.dtype:
    """Return the dtype of products: bf16 as it is, fp16 raised.

    The gradients of scores leave the range of fp16. Triton's interpreter multiplies the bits of
    bf16 as if they were integers (triton-lang/triton issue 11584), so there bf16 is raised too.
    """
    return tl.bfloat16 if x.dtype == torch.bfloat16 and x.is_cuda else tl.float32


def _precision(x: Tensor) -> str:
    """Return the precision of products.

    TF32 holds fp16 whole; for fp32 PyTorch's own setting decides.
    """
    return (
        "tf32"
        if x.dtype != torch.float32 or torch.get_float32_matmul_precision() != "highest"
        else "ieee"
    )
