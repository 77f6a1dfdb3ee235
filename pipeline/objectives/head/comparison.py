"""Both ways through the head start here: the positions that count, and chunks of both logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.objectives.divergence import Divergence
from pipeline.objectives.head.predictor import Predictor
from pipeline.objectives.positions import IGNORE, valid_rows
from pipeline.objectives.scratch import Scratch, log_softmax_, wide_dtype


@dataclass(frozen=True)
class Scored:
    """The positions that either loss reads."""

    #: (n,) flat indices.
    rows: Tensor
    #: (n,) each position's weight in the mean divergence, times temperature^2.
    divergence_weight: Tensor
    #: (n,) each position's weight in the mean LM loss.
    lm_weight: Tensor
    #: (n,) each position's label, 0 where it has none; None without labels.
    targets: Tensor | None

    def part(self, part: slice) -> Scored:
        """Return some of these positions."""
        targets = None if self.targets is None else self.targets[part]
        return Scored(self.rows[part], self.divergence_weight[part], self.lm_weight[part], targets)

    def factors(
        self, divergence: Tensor | float, lm: Tensor | float, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Return what each position's two gradients are multiplied with, (n, 1) each.

        divergence, lm: the factors of the two losses.
        """
        # One temperature is the logits' own 1/temperature, the other is left of temperature^2 in
        # divergence_weight.
        of_divergence = divergence * self.divergence_weight / temperature
        return of_divergence.unsqueeze(1), (lm * self.lm_weight).unsqueeze(1)


def scored_positions(
    hidden: Tensor, mask: Tensor | None, labels: Tensor | None, temperature: float
) -> Scored:
    """Return the scored positions of hidden states (positions..., width).

    mask: (positions...), 1 = valid for the divergence; labels: (positions...), -100 = not valid for
    the LM loss.
    """
    compared = valid_rows(mask, hidden)
    labelled = compared[:0] if labels is None else valid_rows(labels != IGNORE, hidden)
    positions = hidden.shape[:-1].numel()
    divergence_weight = torch.zeros(positions, dtype=wide_dtype(hidden), device=hidden.device)
    divergence_weight[compared] = temperature**2 / max(len(compared), 1)
    lm_weight = torch.zeros_like(divergence_weight)
    lm_weight[labelled] = 1 / max(len(labelled), 1)
    rows = ((divergence_weight > 0) | (lm_weight > 0)).nonzero().squeeze(1)
    targets = None if labels is None else labels.reshape(-1)[rows].long().clamp(min=0)
    return Scored(rows, divergence_weight[rows], lm_weight[rows], targets)


def teacher_at(scored: Scored, teacher: Predictor) -> Predictor:
    """Return the teacher, without gradients, at the scored positions."""
    teacher = teacher.detach()
    hidden = teacher.hidden.reshape(-1, teacher.hidden.shape[-1])[scored.rows]
    # Rows that only the LM loss reads may hold anything on the teacher's side.
    unread = (scored.divergence_weight == 0).unsqueeze(1)
    return replace(teacher, hidden=hidden.masked_fill(unread, 0))


@dataclass(frozen=True)
class Comparison:
    """A student and a teacher at the scored positions, and the divergence between them."""

    student: Predictor
    teacher: Predictor
    scored: Scored
    settings: Divergence
    #: The teacher's share of the target's logits; the student's own are the rest (TAID).
    share: float

    def rows(self, part: slice) -> Comparison:
        """Return the comparison at some of the scored positions."""
        return replace(
            self,
            student=self.student.rows(part),
            teacher=self.teacher.rows(part),
            scored=self.scored.part(part),
        )

    def columns(self, part: slice) -> Comparison:
        """Return the comparison over a slice of the vocabulary."""
        return replace(self, student=self.student.columns(part), teacher=self.teacher.columns(part))

    def logits(self, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """Return (student's logits, target's logits) in the buffers "s" and "t", both wide."""
        wide = self.scored.divergence_weight.dtype
        s = _logits(scratch, "s", self.student, wide)
        t = _logits(scratch, "t", self.teacher, wide)
        if self.share != 1.0:
            t.lerp_(s, 1 - self.share)
        return s, t


def _logits(scratch: Scratch, name: str, predictor: Predictor, wide: torch.dtype) -> Tensor:
    hidden, weight = predictor.hidden, predictor.weight
    shape = (hidden.shape[0], weight.shape[0])
    logits = scratch.get(name, shape, wide)
    if hidden.dtype == wide:
        torch.mm(hidden, weight.t(), out=logits)
    else:
        logits.copy_(torch.mm(hidden, weight.t(), out=scratch.get("raw", shape, hidden.dtype)))
    if predictor.scale != 1.0:
        logits.mul_(predictor.scale)
    return logits if predictor.bias is None else logits.add_(predictor.bias)


def normalise(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return (log-probabilities, log-sum-exp of the tempered logits); the logits are lost.

    The log-sum-exp comes from the two maxima: where the log-probability is near 0 nothing cancels,
    and torch.logsumexp takes ten times as long on a CPU.
    """
    if temperature != 1.0:
        logits.div_(temperature)
    top = logits.amax(-1)
    log_q = log_softmax_(logits)
    return log_q, top.sub_(log_q.amax(-1))


def picked(rows: Tensor, columns: Tensor) -> Tensor:
    """Return one number of each row, (n,) from (n, vocabulary) and (n,) indices."""
    return rows.gather(1, columns.unsqueeze(1)).squeeze(1)
