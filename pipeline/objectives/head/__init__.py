"""Divergence and LM loss straight from hidden states and the LM heads: neither model's logits ever exist in full.

Two ways to the same numbers: `recomputed` makes the logits again in the backward pass and keeps next to nothing between; `at_once`
makes the gradients in the forward pass. docs/objectives.md says what each costs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.objectives import formulas
from pipeline.objectives.head.at_once import AtOnce
from pipeline.objectives.head.recomputed import Recomputed
from pipeline.objectives.logits import IGNORE, check_share, check_temperature, valid_rows
from pipeline.objectives.scratch import wide_dtype


def head_divergence(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    mask: Tensor | None = None,
    *,
    kind: formulas.Kind = "forward_kl",
    temperature: float = 1.0,
    alpha: float | None = None,
    target_share: float = 1.0,
    student_scale: float = 1.0,
    teacher_scale: float = 1.0,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    labels: Tensor | None = None,
    weights: tuple[float, float] | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(divergence, lm): two scalars in fp32 (fp64 for fp64 inputs), as `logits.divergence` and `logits.lm_loss` give.

    *_hidden: (positions..., width of the model), the decoder's output after its final norm. *_weight: (vocabulary,
        width). Logits are *_scale x hidden weight^T + *_bias (vocabulary,); T5 with tied embeddings has the scale
        d_model^-0.5. Products are in the hidden states' dtype, softmax and sums in fp32.
    mask: (positions...), 1 = valid for the divergence; labels: (positions...), -100 = not valid for the LM loss, which
        is 0 without labels. kind, temperature, alpha, target_share: as for `logits.divergence`.
    weights: a promise that what is differentiated is a multiple of weights[0] x divergence + weights[1] x lm and nothing else of
        these two. In fp32 and fp64 on a CPU it saves a third of the products; elsewhere nothing changes. The backward pass
        raises RuntimeError where the promise is not kept.
    chunk: positions in one chunk of the forward pass; by the vocabulary when absent.

    Gradients flow to student_hidden, student_weight and student_bias. Raises ValueError where shapes do not fit.
    """
    check_temperature(temperature)
    check_share(target_share)
    alpha = formulas.check_alpha(kind, alpha)
    _check(student_hidden, student_weight, teacher_hidden, teacher_weight, labels)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    divergence_rows = valid_rows(mask, student_hidden)
    label_rows = (
        divergence_rows[:0] if labels is None else valid_rows(labels != IGNORE, student_hidden)
    )
    flat_labels = None if labels is None else labels.reshape(-1)
    settings = (
        kind,
        float(temperature),
        alpha,
        float(target_share),
        float(student_scale),
        float(teacher_scale),
        chunk,
    )
    inputs = (
        student_hidden,
        student_weight,
        student_bias,
        teacher_hidden.detach(),
        teacher_weight.detach(),
        None if teacher_bias is None else teacher_bias.detach(),
        divergence_rows,
        label_rows,
        flat_labels,
        settings,
    )
    learns = (
        torch.is_grad_enabled() and student_hidden.requires_grad and student_weight.requires_grad
    )
    exact = student_hidden.dtype == student_weight.dtype == wide_dtype(student_hidden)
    result: tuple[Tensor, Tensor]
    if weights is not None and any(weights) and learns and exact and not student_hidden.is_cuda:
        result = AtOnce.apply(*inputs, weights)
    else:
        result = Recomputed.apply(*inputs)
    return result


def _check(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    labels: Tensor | None,
) -> None:
    for who, h, w in (("student", hidden, weight), ("teacher", teacher_hidden, teacher_weight)):
        if w.dim() != 2 or h.shape[-1] != w.shape[1]:
            raise ValueError(
                f"the {who}'s hidden states {tuple(h.shape)} do not fit its head {tuple(w.shape)}"
            )
    if hidden.shape[:-1] != teacher_hidden.shape[:-1]:
        raise ValueError(
            f"student {tuple(hidden.shape)} and teacher {tuple(teacher_hidden.shape)} differ in positions"
        )
    if weight.shape[0] != teacher_weight.shape[0]:
        raise ValueError(
            f"vocabularies differ: student {weight.shape[0]}, teacher {teacher_weight.shape[0]}"
        )
    if labels is not None and labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit hidden states {tuple(hidden.shape)}"
        )
