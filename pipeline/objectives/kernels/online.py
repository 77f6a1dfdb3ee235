"""Softmax statistics of two rows and the KL between them, in one pass over tiles.

All kernels share them. Per row, over the columns j seen so far: top = max_j x_j and
sum = sum_j e^(x_j - top) for both rows' scores p and q, and
cross = sum_j e^(p_j - top_p) ((p_j - top_p) - (q_j - top_q)). At the end

    KL(softmax p || softmax q) = cross / sum_p - log sum_p + log sum_q.

All differences are taken from the maxima, so nothing as large as the scores themselves is left to
cancel. The running softmax is that of Milakov and Gimelshein 2018,
https://arxiv.org/abs/1805.02867; carrying the KL is this project's own.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: A score that takes no part, `relations.MASKED`; finite, so that differences of two of them are 0
#: and not NaN.
MASKED: tl.constexpr = tl.constexpr(-1e38)


@triton.jit
def online(p, q, top_p, sum_p, top_q, sum_q, cross):
    """Return the statistics, (rows,) each in fp32, after one more tile of both rows' scores.

    p, q: (rows, columns) in fp32. Start from top = MASKED, sum = 0, cross = 0. Columns that take no
    part are MASKED in both.
    """
    new_p = tl.maximum(top_p, tl.max(p, 1))
    new_q = tl.maximum(top_q, tl.max(q, 1))
    p = p - new_p[:, None]
    q = q - new_q[:, None]
    weights = tl.exp(p)
    keep = tl.exp(top_p - new_p)
    # When a maximum moves, each difference seen so far moves by as much.
    moved = (top_p - new_p) - (top_q - new_q)
    cross = keep * (cross + sum_p * moved) + tl.sum(weights * (p - q), 1)
    sum_p = keep * sum_p + tl.sum(weights, 1)
    sum_q = tl.exp(top_q - new_q) * sum_q + tl.sum(tl.exp(q), 1)
    return new_p, sum_p, new_q, sum_q, cross


@triton.jit
def double(x):
    """Double x (1,) in place: the kernel that shows whether kernels work."""
    tl.store(x, tl.load(x) * 2)
