"""The student's LM head as a module that gives losses instead of logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.families.base import Family, Head
from pipeline.objectives.divergence import FORWARD_KL, Divergence
from pipeline.objectives.head import LossWeights, Predictor, head_divergence
from pipeline.objectives.joint import sampled_kl_and_lm
from pipeline.objectives.logits import divergence, lm_loss, sampled_kl, topk_outcomes


@dataclass(frozen=True)
class DenseTarget:
    """A teacher's distribution as its decoder's output (positions…, its d_model) and its head."""

    hidden: torch.Tensor
    head: Head


@dataclass(frozen=True)
class SampledTarget:
    """Draws from a teacher's distribution."""

    #: (positions…, k)
    ids: torch.Tensor
    #: (positions…, k), 0 where unused.
    counts: torch.Tensor


@dataclass(frozen=True)
class TopkTarget:
    """A teacher's k most probable tokens."""

    #: (positions…, k)
    ids: torch.Tensor
    #: (positions…, k)
    log_probabilities: torch.Tensor
    #: (positions…), the log of the remaining mass.
    log_tail: torch.Tensor


Target = DenseTarget | SampledTarget | TopkTarget


class LossHead(nn.Module):
    """LM loss and divergence from the decoder's output.

    A module of its own that shares the head's weight. ZeRO-3 gathers a partitioned weight for the
    module that holds it, before its forward and again before its backward. With a dense target
    neither model's logits ever exist.
    """

    def __init__(
        self, student: PreTrainedModel, family: Family, settings: Divergence = FORWARD_KL
    ) -> None:
        """settings: the divergence from a target, when there is one."""
        super().__init__()
        head = family.head(student)
        assert isinstance(head.weight, nn.Parameter)
        self.weight = head.weight
        self._scale = head.scale
        self._settings = settings
        # A buffer of the student's, where there is one: asked for again at each use, because moving
        # a model to a device replaces its buffers. In a function, so that the student does not
        # become a part of this module.
        self._bias = lambda: family.head(student).bias

    def forward(
        self,
        hidden: torch.Tensor,
        labels: torch.Tensor | None,
        target: Target | None,
        *,
        with_lm: bool = True,
        target_share: float = 1.0,
        weights: LossWeights | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the scalars "lm" (unless with_lm is false) and, with a target, "logits".

        Without labels return "ids" alone: (batch, L_out), the most probable token at each position.

        hidden: (batch, L_out, d_model), the decoder's output. labels: (batch, L_out), -100 = not
        valid for either loss. target_share, weights: of a dense target, see `head_divergence`.
        """
        head = Head(self.weight, self._scale, self._bias())
        if labels is None:
            return {"ids": head.logits(hidden).argmax(-1)}
        if isinstance(target, DenseTarget):
            value, lm = head_divergence(
                _predictor(hidden, head),
                _predictor(target.hidden, target.head),
                self._settings,
                mask=labels != -100,
                labels=labels if with_lm else None,
                target_share=target_share,
                weights=weights,
            )
            return {"lm": lm, "logits": value} if with_lm else {"logits": value}
        return self._from_logits(head.logits(hidden), labels, target, with_lm)

    def _from_logits(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        target: SampledTarget | TopkTarget | None,
        with_lm: bool,
    ) -> dict[str, torch.Tensor]:
        settings, valid = self._settings, labels != -100
        if isinstance(target, SampledTarget) and with_lm and settings.temperature == 1.0:
            value, lm = sampled_kl_and_lm(logits, target.ids, target.counts, labels)
            return {"lm": lm, "logits": value}
        parts = {"lm": lm_loss(logits, labels)} if with_lm else {}
        if isinstance(target, SampledTarget):
            parts["logits"] = sampled_kl(
                logits, target.ids, target.counts, valid, temperature=settings.temperature
            )
        elif isinstance(target, TopkTarget):
            student = topk_outcomes(logits, target.ids)
            teacher = torch.cat([target.log_probabilities, target.log_tail.unsqueeze(-1)], -1)
            at_one = Divergence(settings.kind, settings.alpha)
            parts["logits"] = divergence(student, teacher.to(student.dtype), valid, at_one)
        return parts


def _predictor(hidden: torch.Tensor, head: Head) -> Predictor:
    bias = None if head.bias is None else head.bias.reshape(-1)
    return Predictor(hidden, head.weight, head.scale, bias)
