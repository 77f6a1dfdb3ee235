"""Divergence and LM loss straight from hidden states and the LM heads: neither model's logits ever exist in full.

Forward: a few positions at a time, logits of both models, the divergence and the cross-entropy; what stays is a handful
of numbers a position (the log-sum-exps and one constant, see `formulas`). Backward, by hand: the logits again, now a
slice of the vocabulary at a time for all positions, so that each slice of the weight's gradient is one product, written
once in the weight's dtype; nothing is summed up in low precision and no fp32 copy of the weight's gradient is needed.

The price is two products more than plain autograd's four (both models' logits are made twice); what is saved is all
passes over positions x vocabulary in main memory. docs/objectives.md says what that comes to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.objectives import formulas
from pipeline.objectives.logits import CHUNK_CPU, CHUNK_CUDA, IGNORE, check_share, check_temperature, valid_rows


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
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(divergence, lm): two scalars in fp32 (fp64 for fp64 inputs), as `logits.divergence` and `logits.lm_loss` give.

    *_hidden: (positions..., width of the model), the decoder's output after its final norm. *_weight: (vocabulary,
        width). Logits are *_scale x hidden weight^T + *_bias (vocabulary,); T5 with tied embeddings has the scale
        d_model^-0.5. Products are in the hidden states' dtype, softmax and sums in fp32.
    mask: (positions...), 1 = valid for the divergence; labels: (positions...), -100 = not valid for the LM loss, which
        is 0 without labels. kind, temperature, alpha, target_share: as for `logits.divergence`.
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
    label_rows = divergence_rows[:0] if labels is None else valid_rows(labels != IGNORE, student_hidden)
    flat_labels = None if labels is None else labels.reshape(-1)
    settings = (kind, float(temperature), alpha, float(target_share), float(student_scale), float(teacher_scale), chunk)
    result: tuple[Tensor, Tensor] = _Head.apply(
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
    return result
