"""Divergence and LM loss straight from hidden states and the LM heads.

Neither model's logits ever exist in full. Two ways lead to the same numbers: `recomputed` makes the
logits again in the backward pass and keeps next to nothing between; `at_once` makes the gradients
in the forward pass. docs/objectives.md says what each costs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.objectives.divergence import FORWARD_KL, Divergence, check_share
from pipeline.objectives.head.at_once import AtOnce, LossWeights
from pipeline.objectives.head.comparison import scored_positions, teacher_at
from pipeline.objectives.head.predictor import Predictor
from pipeline.objectives.head.recomputed import Recomputed
from pipeline.objectives.scratch import wide_dtype

__all__ = ["LossWeights", "Predictor", "head_divergence"]


def head_divergence(
    student: Predictor,
    teacher: Predictor,
    settings: Divergence = FORWARD_KL,
    *,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    target_share: float = 1.0,
    weights: LossWeights | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (divergence, lm) as `logits.divergence` and `logits.lm_loss` give them.

    Both are scalars in fp32 (fp64 for fp64 inputs). Products are in the hidden states' dtype,
    softmax and sums in fp32.

    mask: (positions...), 1 = valid for the divergence; all valid when absent.
    labels: (positions...), -100 = not valid for the LM loss, which is 0 without labels.
    target_share: as for `logits.divergence`.
    weights: a promise, see `LossWeights`. In fp32 and fp64 on a CPU it saves a third of the
        products; elsewhere nothing changes.

    Gradients flow to the student's hidden states, weight and bias. Raises ValueError where shapes
    do not fit.
    """
    check_share(target_share)
    _check(student, teacher, labels)
    scored = scored_positions(student.hidden, mask, labels, settings.temperature)
    learned = (student.hidden, student.weight, student.bias)
    others = (student.scale, teacher_at(scored, teacher), scored, settings, float(target_share))
    result: tuple[Tensor, Tensor]
    if weights is not None and any(weights) and _gains_at_once(student):
        result = AtOnce.apply(*learned, *others, weights)
    else:
        result = Recomputed.apply(*learned, *others)
    return result


def _gains_at_once(student: Predictor) -> bool:
    """Return whether `at_once` is exact for this student, is cheaper, and has a use."""
    hidden, weight = student.hidden, student.weight
    learns = torch.is_grad_enabled() and hidden.requires_grad and weight.requires_grad
    exact = hidden.dtype == weight.dtype == wide_dtype(hidden)
    return learns and exact and not hidden.is_cuda


def _check(student: Predictor, teacher: Predictor, labels: Tensor | None) -> None:
    for who, model in (("student", student), ("teacher", teacher)):
        if model.weight.dim() != 2 or model.hidden.shape[-1] != model.weight.shape[1]:
            raise ValueError(
                f"the {who}'s hidden states {tuple(model.hidden.shape)} "
                f"do not fit its head {tuple(model.weight.shape)}"
            )
    if student.hidden.shape[:-1] != teacher.hidden.shape[:-1]:
        raise ValueError(
            f"student {tuple(student.hidden.shape)} and teacher {tuple(teacher.hidden.shape)} "
            "differ in positions"
        )
    if student.weight.shape[0] != teacher.weight.shape[0]:
        raise ValueError(
            f"vocabularies differ: student {student.weight.shape[0]}, "
            f"teacher {teacher.weight.shape[0]}"
        )
    if labels is not None and labels.shape != student.hidden.shape[:-1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit hidden states {tuple(student.hidden.shape)}"
        )
