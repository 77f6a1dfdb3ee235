"""Losses on logits: divergences from a teacher, sparse (sampled, top-k) targets, and the LM cross-entropy.

Each works on a few positions at a time and keeps nothing as large as the logits between forward and backward: the
backward pass, written by hand, makes the probabilities again from the logits, which exist anyway. The only tensor of
positions x vocabulary ever made is the gradient itself, in the logits' dtype. Softmax and sums are in fp32 (fp64 for
fp64 logits). Logits must be finite. Positions left out by a mask are not read, so they may hold anything.

On CUDA, `divergence` is two fused kernels (`kernels.rows`) where `kernels.usable` says so.

From hidden states, where even the logits need not exist, see `head.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives import formulas, kernels
from pipeline.objectives.scratch import Scratch, exp_, log_softmax_, wide_dtype

#: Logits in one chunk: 2^21 in fp32 are 8 MiB, so a chunk's buffers stay in a CPU's last-level cache.
CHUNK_CPU = 1 << 21
CHUNK_CUDA = 1 << 26
#: The label that is not scored, as in Transformers.
IGNORE = -100


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None = None,
    *,
    kind: formulas.Kind = "forward_kl",
    temperature: float = 1.0,
    alpha: float | None = None,
    target_share: float = 1.0,
) -> Tensor:
    """The mean divergence over valid positions times temperature^2 (Hinton et al. 2015, arXiv 1503.02531, section 2).

    student_logits, teacher_logits: (positions..., vocabulary). mask: (positions...), 1 = valid; all valid when absent.
    kind, alpha: see `formulas.value`. target_share: below 1 the target is `taid_target` with that share.
    Returns a scalar in fp32 (fp64 for fp64 logits), 0 when nothing is valid; gradients flow to the student alone.
    Raises ValueError for shapes that differ, an unknown kind, or an alpha, temperature or share out of range.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student and teacher logits differ: {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}; both need the same positions and vocabulary"
        )
    check_temperature(temperature)
    check_share(target_share)
    alpha = formulas.check_alpha(kind, alpha)
    rows = valid_rows(mask, student_logits)
    loss: Tensor = _Dense.apply(
        student_logits,
        teacher_logits.detach(),
        rows,
        kind,
        float(temperature),
        alpha,
        float(target_share),
    )
    return loss


def lm_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy over labels other than -100, in fp32 (fp64 for fp64 logits); 0 when there are none.

    student_logits: (positions..., vocabulary); labels: (positions...) int.
    """
    if labels.shape != student_logits.shape[:-1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit logits {tuple(student_logits.shape)}"
        )
    ids = labels.reshape(-1, 1)
    # A one-hot target is a sparse one whose entropy is 0, so its KL is the cross-entropy.
    return _sparse(student_logits, ids.clamp(min=0), None, None, labels != IGNORE, 1.0)


def sampled_kl(
    student_logits: Tensor,
    ids: Tensor,
    counts: Tensor,
    mask: Tensor | None = None,
    *,
    entropy: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """KL from targets sampled from the teacher (Sparse Logit Sampling, arXiv 2503.16870).

    student_logits: (positions..., vocabulary). ids: (positions..., k) int; a row's ids must differ where their count is
        not 0. counts: (positions..., k), draws or importance weights, 0 where unused; each row is divided by its sum,
        and a row whose sum is 0 is not valid. mask: (positions...), 1 = valid.
    entropy: (positions...), the teacher's exact entropy in nats where it was stored: value and gradient are then
        unbiased estimates of KL(teacher || student). Without it the value is KL(empirical || student), which is biased
        (by the entropy the draws lack) but has the same, unbiased, gradient.
    temperature: that of the teacher's distribution when the targets were drawn.
    """
    weights = counts.to(wide_dtype(student_logits))
    total = weights.sum(-1, keepdim=True)
    valid = total.squeeze(-1) > 0
    valid = valid if mask is None else valid & mask.bool()
    shares = weights / torch.where(total > 0, total, torch.ones_like(total))
    own = torch.special.entr(shares).sum(-1)
    return _sparse(
        student_logits, ids, shares, None, valid, temperature, own if entropy is None else entropy
    )


def topk_kl(
    student_logits: Tensor,
    ids: Tensor,
    probabilities: Tensor,
    mask: Tensor | None = None,
    *,
    tail: bool = True,
    temperature: float = 1.0,
) -> Tensor:
    """KL from the teacher's k most probable tokens: biased, unlike `sampled_kl`.

    ids, probabilities: (positions..., k), distinct ids and the teacher's probabilities at `temperature`.
    tail: what the k lack of 1 is one more outcome, compared with the student's mass outside the k. Without it the k
        probabilities are scaled to sum to 1 and the student is pushed to put nothing elsewhere.
    """
    p = probabilities.to(wide_dtype(student_logits))
    total = p.sum(-1, keepdim=True)
    if not tail or ids.shape[-1] == student_logits.shape[-1]:
        p, rest = p / torch.where(total > 0, total, torch.ones_like(total)), None
    else:
        rest = (1 - total.squeeze(-1)).clamp(min=0)
    own = torch.special.entr(p).sum(-1) + (0 if rest is None else torch.special.entr(rest))
    return _sparse(student_logits, ids, p, rest, mask, temperature, own)


def taid_target(student_logits: Tensor, teacher_logits: Tensor, share: float) -> Tensor:
    """TAID's moving target, as logits: (1 - share) student (detached) + share teacher (arXiv 2501.16937, equation 3)."""
    check_share(share)
    return torch.lerp(
        student_logits.detach(), teacher_logits.detach().to(student_logits.dtype), share
    )


def topk_outcomes(student_logits: Tensor, ids: Tensor) -> Tensor:
    """The student's log-probabilities of k tokens and, last, of all others together: (positions..., k + 1).

    student_logits: (positions..., vocabulary); ids: (positions..., k) int, distinct in a row. In fp32 (fp64 for fp64 logits).
    With the teacher's k log-probabilities and the log of its tail mass, any divergence of `divergence` compares the k + 1
    outcomes: a lower bound of the divergence over the vocabulary.
    """
    outcomes: Tensor = _Outcomes.apply(student_logits, ids.reshape(-1, ids.shape[-1]).long())
    return outcomes.unflatten(0, ids.shape[:-1]) if ids.dim() > 2 else outcomes


class _Outcomes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, ids: Tensor) -> Tensor:
        chunks = _Chunks(student, 1.0)
        out = torch.empty((len(ids), ids.shape[1] + 1), dtype=chunks.wide, device=student.device)
        for part in torch.arange(len(ids), device=student.device).split(chunk_rows(student)):
            log_q = chunks.log_q(part)
            out[part, :-1] = log_q.gather(1, ids[part])
            out[part, -1] = log_q.scatter_(1, ids[part], -torch.inf).logsumexp(-1)
        ctx.save_for_backward(student, ids, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        student, ids, outcomes = ctx.saved_tensors
        chunks = _Chunks(student, 1.0)
        rows = torch.arange(len(ids), device=student.device)
        out = chunks.gradient(rows)
        for part in rows.split(chunk_rows(student)):
            g, log_q = grad[part], chunks.log_q(part)
            # Inside the k: g_k - (sum g) q. Outside: (g_rest / q_rest - sum g) q, the quotient taken in log space.
            inside = g[:, :-1] - g.sum(-1, keepdim=True) * log_q.gather(1, ids[part]).exp()
            rest = outcomes[part, -1:]
            share = exp_(log_q - torch.where(rest > -torch.inf, rest, 0.0)).mul_(g[:, -1:])
            d = (
                exp_(log_q)
                .mul_(-g.sum(-1, keepdim=True))
                .add_(share)
                .scatter_(1, ids[part], inside)
            )
            chunks.put(out, part, d)
        return (out.view_as(student), None)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        rows: Tensor,
        kind: str,
        temperature: float,
        alpha: float,
        share: float,
    ) -> Tensor:
        ctx.settings = (kind, temperature, alpha, share)
        ctx.fused = kernels.usable(student, teacher)
        chunks = _Chunks(student, temperature)
        flat_teacher = teacher.reshape(-1, teacher.shape[-1])
        if ctx.fused:
            from pipeline.objectives.kernels import rows as fused

            row_values, stats = fused.values(
                kind,
                chunks.student,
                flat_teacher,
                rows,
                temperature=temperature,
                alpha=alpha,
                share=share,
            )
            ctx.save_for_backward(student, teacher, rows, stats)
            return row_values.sum() * (temperature**2 / max(len(rows), 1))
        total = torch.zeros((), dtype=chunks.wide, device=student.device)
        constants = []
        for part in rows.split(chunk_rows(student)):
            log_p, log_q = chunks.target(flat_teacher, part, share), chunks.log_q(part)
            row_value, c = formulas.value(kind, log_p, log_q, alpha)
            total += row_value.sum()
            constants.append(c)
        ctx.save_for_backward(
            student, teacher, rows, torch.cat(constants) if constants else total.new_empty(0)
        )
        return total * (temperature**2 / max(len(rows), 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, rows, constants = ctx.saved_tensors
        kind, temperature, alpha, share = ctx.settings
        chunks = _Chunks(student, temperature)
        flat_teacher = teacher.reshape(-1, teacher.shape[-1])
        size = chunk_rows(student)
        # One temperature is the logits' own 1/temperature, the other is left of temperature^2.
        factor = grad * (temperature / max(len(rows), 1))
        out = chunks.gradient(rows)
        if ctx.fused:
            from pipeline.objectives.kernels import rows as fused

            factors = factor.float().expand(len(rows))
            fused.gradient_(
                out, kind, chunks.student, flat_teacher, constants, factors, rows,
                temperature=temperature, alpha=alpha, share=share,
            )  # fmt: skip
            return (out.view_as(student), None, None, None, None, None, None)
        for part, c in zip(rows.split(size), constants.split(size), strict=False):
            log_p, log_q = chunks.target(flat_teacher, part, share), chunks.log_q(part)
            chunks.put(out, part, formulas.gradient(kind, log_p, log_q, c, alpha).mul_(factor))
        return (out.view_as(student), None, None, None, None, None, None)


class _Sparse(torch.autograd.Function):
    """sum_k p_k (-log q_k) + rest (-log of q's mass outside the k), the mean over rows, times temperature^2."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        ids: Tensor,
        p: Tensor,
        rest: Tensor | None,
        rows: Tensor,
        temperature: float,
    ) -> Tensor:
        chunks = _Chunks(student, temperature)
        total = torch.zeros((), dtype=chunks.wide, device=student.device)
        for part in rows.split(chunk_rows(student)):
            log_q = chunks.log_q(part)
            total -= (torch.where(p[part] > 0, log_q.gather(1, ids[part]), 0.0) * p[part]).sum()
            if rest is not None:
                outside = log_q.scatter_(1, ids[part], -torch.inf).logsumexp(-1)
                total -= torch.where(rest[part] > 0, outside * rest[part], 0.0).sum()
        ctx.save_for_backward(student, ids, p, rest, rows)
        ctx.temperature = temperature
        return total * (temperature**2 / max(len(rows), 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        student, ids, p, rest, rows = ctx.saved_tensors
        chunks = _Chunks(student, ctx.temperature)
        factor = grad * (ctx.temperature / max(len(rows), 1))
        out = chunks.gradient(rows)
        for part in rows.split(chunk_rows(student)):
            log_q = chunks.log_q(part)
            if rest is None:
                # d / d logits = (sum p) q - p.
                d = exp_(log_q).mul_(p[part].sum(-1, keepdim=True))
                d.scatter_add_(1, ids[part], -p[part])
            else:
                # Inside the k: (sum p + rest) q - p; outside, rest q / q_outside less.
                tail = rest[part].unsqueeze(1)
                mass = p[part].sum(-1, keepdim=True) + tail
                inside = log_q.gather(1, ids[part]).exp() * mass - p[part]
                outside = log_q.scatter_(1, ids[part], -torch.inf).logsumexp(-1, keepdim=True)
                # tail / q_outside may be huge while q is tiny: taken together in log space.
                moved = exp_(log_q - torch.where(tail > 0, outside, 0.0)).mul_(tail)
                d = exp_(log_q).mul_(mass).sub_(moved).scatter_(1, ids[part], inside)
            chunks.put(out, part, d.mul_(factor))
        return (out.view_as(student), None, None, None, None, None)


class _Chunks:
    """Rows of logits, taken in the wide dtype into reused buffers: each method's result holds until its next call."""

    def __init__(self, student: Tensor, temperature: float) -> None:
        self.student = student.reshape(-1, student.shape[-1])
        self.temperature = temperature
        self.wide = wide_dtype(student)
        self.scratch = Scratch(student.device)

    def take(self, name: str, flat: Tensor, rows: Tensor) -> Tensor:
        shape = (len(rows), flat.shape[-1])
        out = self.scratch.get(name, shape, self.wide)
        if flat.dtype == self.wide:
            return torch.index_select(flat, 0, rows, out=out)
        return out.copy_(
            torch.index_select(flat, 0, rows, out=self.scratch.get("raw", shape, flat.dtype))
        )

    def normalise(self, logits: Tensor) -> Tensor:
        return log_softmax_(logits if self.temperature == 1.0 else logits.div_(self.temperature))

    def log_q(self, rows: Tensor) -> Tensor:
        return self.normalise(self.take("q", self.student, rows))

    def target(self, teacher: Tensor, rows: Tensor, share: float) -> Tensor:
        """log p of the teacher, or of TAID's interpolation."""
        logits = self.take("p", teacher, rows)
        if share != 1.0:
            logits.lerp_(self.take("q", self.student, rows), 1 - share)
        return self.normalise(logits)

    def gradient(self, rows: Tensor) -> Tensor:
        """A tensor for the gradient of the flat logits; zero where no row will be put."""
        full = len(rows) == len(self.student)
        return torch.empty_like(self.student) if full else torch.zeros_like(self.student)

    def put(self, out: Tensor, rows: Tensor, values: Tensor) -> None:
        if values.dtype != out.dtype:
            values = self.scratch.get("raw", tuple(values.shape), out.dtype).copy_(values)
        out.index_copy_(0, rows, values)


def _sparse(
    student_logits: Tensor,
    ids: Tensor,
    p: Tensor | None,
    rest: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    entropy: Tensor | None = None,
) -> Tensor:
    check_temperature(temperature)
    if ids.shape[:-1] != student_logits.shape[:-1] and p is not None:
        raise ValueError(f"ids {tuple(ids.shape)} do not fit logits {tuple(student_logits.shape)}")
    if p is not None and p.shape != ids.shape:
        raise ValueError(
            f"ids {tuple(ids.shape)} and their counts or probabilities {tuple(p.shape)} differ"
        )
    rows = valid_rows(mask, student_logits)
    flat_ids = ids.reshape(-1, ids.shape[-1]).long()
    flat_p = (
        torch.ones_like(flat_ids, dtype=wide_dtype(student_logits))
        if p is None
        else p.reshape(-1, p.shape[-1])
    )
    flat_rest = None if rest is None else rest.reshape(-1)
    cross: Tensor = _Sparse.apply(
        student_logits, flat_ids, flat_p.detach(), flat_rest, rows, float(temperature)
    )
    if entropy is None:
        return cross
    return cross - entropy.reshape(-1)[rows].to(cross.dtype).sum() * (
        temperature**2 / max(len(rows), 1)
    )


def valid_rows(mask: Tensor | None, logits: Tensor) -> Tensor:
    """The flat indices of the valid positions, in order."""
    positions = logits.shape[:-1]
    if mask is None:
        return torch.arange(positions.numel(), device=logits.device)
    if mask.shape != positions:
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}; it must be that of the positions, {tuple(positions)}"
        )
    return mask.reshape(-1).nonzero().squeeze(1)


def chunk_rows(logits: Tensor) -> int:
    """Positions in one chunk."""
    return max(
        1, (CHUNK_CPU if logits.device.type == "cpu" else CHUNK_CUDA) // max(logits.shape[-1], 1)
    )


def check_temperature(temperature: float) -> None:
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0, not {temperature}")


def check_share(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"the teacher's share of the target must lie in 0 to 1, not {share}")
