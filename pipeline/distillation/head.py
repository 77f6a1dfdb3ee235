"""The student's LM head as a module that gives losses instead of logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.families.base import Family, Head
from pipeline.objectives.formulas import Kind
from pipeline.objectives.head import head_divergence
from pipeline.objectives.joint import sampled_kl_and_lm
from pipeline.objectives.logits import divergence, lm_loss, sampled_kl, topk_outcomes


@dataclass(frozen=True)
class DenseTarget:
    """A teacher's distribution as its decoder's output (positions…, its d_model) and its head."""

    hidden: torch.Tensor
    head: Head


@dataclass(frozen=True)
class SampledTarget:
    """Draws from a teacher's distribution: ids and counts (positions…, k), count 0 where unused."""

    ids: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True)
class TopkTarget:
    """A teacher's k most probable ids, their log-probabilities (positions…, k) and the log of the remaining mass (positions…)."""

    ids: torch.Tensor
    log_probabilities: torch.Tensor
    log_tail: torch.Tensor


Target = DenseTarget | SampledTarget | TopkTarget


class LossHead(nn.Module):
    """LM loss and divergence from the decoder's output.

    A module of its own that shares the head's weight, because ZeRO-3 gathers a partitioned weight for the module that holds
    it, before its forward and again before its backward; with a dense target neither model's logits ever exist.
    """

    def __init__(self, student: PreTrainedModel, family: Family) -> None:
        super().__init__()
        head = family.head(student)
        assert isinstance(head.weight, nn.Parameter)
        self.weight = head.weight
        self._scale = head.scale
        # A buffer of the student's, where there is one: asked for anew, as moving a model to a device replaces its buffers. In a
        # function, so that the student does not become a part of this module.
        self._bias = lambda: family.head(student).bias

    def forward(
        self,
        hidden: torch.Tensor,
        labels: torch.Tensor | None,
        target: Target | None,
        *,
        with_lm: bool = True,
        kind: Kind = "forward_kl",
        alpha: float | None = None,
        temperature: float = 1.0,
        target_share: float = 1.0,
        weights: tuple[float, float] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the scalars "lm" (unless with_lm is false) and, with a target, "logits"; without labels "ids" alone.

        hidden: (batch, L_out, d_model), the decoder's output; labels: (batch, L_out), -100 = not valid for either loss. The
        settings are those of `objectives.logits.divergence`; weights: those of "logits" and "lm" in the total, where nothing else
        of it comes from these two (`head_divergence`). ids: (batch, L_out), the most probable token at each position.
        """
        if labels is None:
            return {"ids": Head(self.weight, self._scale, self._bias()).logits(hidden).argmax(-1)}
        valid = labels != -100
        if isinstance(target, DenseTarget):
            divergence_value, lm = head_divergence(
                hidden,
                self.weight,
                target.hidden,
                target.head.weight,
                valid,
                kind=kind,
                alpha=alpha,
                temperature=temperature,
                target_share=target_share,
                student_scale=self._scale,
                teacher_scale=target.head.scale,
                student_bias=_flat(self._bias()),
                teacher_bias=_flat(target.head.bias),
                labels=labels if with_lm else None,
                weights=weights,
            )
            return (
                {"lm": lm, "logits": divergence_value} if with_lm else {"logits": divergence_value}
            )
        logits = Head(self.weight, self._scale, self._bias()).logits(hidden)
        if isinstance(target, SampledTarget) and with_lm and temperature == 1.0:
            divergence_value, lm = sampled_kl_and_lm(logits, target.ids, target.counts, labels)
            return {"lm": lm, "logits": divergence_value}
        parts = {"lm": lm_loss(logits, labels)} if with_lm else {}
        if isinstance(target, SampledTarget):
            parts["logits"] = sampled_kl(
                logits, target.ids, target.counts, valid, temperature=temperature
            )
        elif isinstance(target, TopkTarget):
            student = topk_outcomes(logits, target.ids)
            teacher = torch.cat([target.log_probabilities, target.log_tail.unsqueeze(-1)], -1).to(
                student.dtype
            )
            parts["logits"] = divergence(student, teacher, valid, kind=kind, alpha=alpha)
        return parts


def _flat(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.reshape(-1)
