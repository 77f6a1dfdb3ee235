"""MiniLM v1: transfer of the attention distributions themselves, for comparison with `relations`.

Source: Wang et al. 2020, MiniLM, https://arxiv.org/abs/2002.10957, equation 5. Both models need the
same number of heads. This form makes one sequence's scores at a time, in plain autograd under a
checkpoint: it is the baseline, not the fast path.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.objectives.relations import MASKED
from pipeline.objectives.scratch import wide_dtype


def attention_loss(
    teacher: tuple[Tensor, Tensor],
    student: tuple[Tensor, Tensor],
    *,
    heads: int,
    teacher_scale: float,
    student_scale: float,
    teacher_bias: Tensor | None = None,
    student_bias: Tensor | None = None,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Return KL(teacher || student) of softmax(scale q k^T + bias), in fp32 (fp64 for fp64 inputs).

    teacher, student: (q, k), raw projections (batch, length, width), q of L_q and k of L_k rows.
    *_scale: the model's factor of the scores: 1 for T5, head size^-0.5 for BART.
    *_bias: an additive position bias that broadcasts to (batch, heads, L_q, L_k), as T5 has.
    Masks, causality and the mean (heads, valid rows of a sequence, sequences) are those of
    `relation_loss`. No gradient reaches the teacher's side.
    """
    (tq, tk), (sq, sk) = teacher, student
    for who, q, k in (("teacher", tq, tk), ("student", sq, sk)):
        if heads < 1 or q.shape[-1] % heads or q.shape[-1] != k.shape[-1]:
            raise ValueError(
                f"the {who}'s widths {q.shape[-1]} and {k.shape[-1]} "
                f"do not divide into {heads} heads"
            )
    if causal and sq.shape[1] != sk.shape[1]:
        raise ValueError(
            f"causal attention needs as many queries as keys, not {sq.shape[1]} and {sk.shape[1]}"
        )
    batch, rows, columns = sq.shape[0], sq.shape[1], sk.shape[1]
    shape = (batch, heads, rows, columns)
    t_bias = None if teacher_bias is None else teacher_bias.detach().expand(shape)
    s_bias = None if student_bias is None else student_bias.expand(shape)
    wide = wide_dtype(sq)
    losses: list[Tensor] = []
    for i in range(batch):
        blocked = torch.zeros(rows, columns, dtype=torch.bool, device=sq.device)
        if causal:
            blocked = torch.ones_like(blocked).triu(1)
        if key_mask is not None:
            blocked = blocked | ~key_mask[i].bool()
        valid = ~blocked.all(-1)
        if query_mask is not None:
            valid = valid & query_mask[i].bool()
        if not bool(valid.any()):
            continue
        args = (
            tq[i].detach(),
            tk[i].detach(),
            sq[i],
            sk[i],
            None if t_bias is None else t_bias[i],
            None if s_bias is None else s_bias[i],
            blocked,
            valid,
        )
        losses.append(
            checkpoint(
                _sequence, *args, heads, teacher_scale, student_scale, wide, use_reentrant=False
            )
        )
    if not losses:
        return (sq.to(wide).sum() + sk.to(wide).sum()) * 0.0
    return torch.stack(losses).mean()


def _sequence(
    tq: Tensor,
    tk: Tensor,
    sq: Tensor,
    sk: Tensor,
    t_bias: Tensor | None,
    s_bias: Tensor | None,
    blocked: Tensor,
    valid: Tensor,
    heads: int,
    t_scale: float,
    s_scale: float,
    wide: torch.dtype,
) -> Tensor:
    log_p = _log_attention(tq, tk, t_bias, blocked, heads, t_scale, wide)
    log_q = _log_attention(sq, sk, s_bias, blocked, heads, s_scale, wide)
    return ((log_p - log_q) * log_p.exp()).sum(-1)[:, valid].mean()


def _log_attention(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    blocked: Tensor,
    heads: int,
    scale: float,
    wide: torch.dtype,
) -> Tensor:
    if q.dtype == torch.float16:
        q, k = q.float(), k.float()
    q, k = (
        q.unflatten(-1, (heads, -1)).transpose(0, 1),
        k.unflatten(-1, (heads, -1)).transpose(0, 1),
    )
    scores = torch.bmm(q, k.transpose(1, 2)).to(wide) * scale
    if bias is not None:
        scores = scores + bias.to(wide)
    return torch.log_softmax(scores.masked_fill(blocked, MASKED), -1)
