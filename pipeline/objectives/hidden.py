"""Losses between hidden states of chosen layers.

Where the widths differ they go through a learned projection.

Sources: Jiao et al. 2020, TinyBERT, https://arxiv.org/abs/1909.10351, equation 8 (MSE through a
learned linear map); Sanh et al. 2019, DistilBERT, https://arxiv.org/abs/1910.01108, section 2
(cosine, same width).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from pipeline.objectives.scratch import wide_dtype


def hidden_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    kind: Literal["mse", "cosine"] = "mse",
    projection: Tensor | None = None,
) -> Tensor:
    """Return the mean over valid positions of the squared error or of 1 - cosine.

    The squared error is a mean over features too. The result is in fp32 (fp64 for fp64 inputs), and
    0 when nothing is valid.

    student: (positions..., width); teacher: (positions..., teacher width); mask: (positions...),
    1 = valid. projection: (teacher width, width), trained with the student and dropped at export;
    needed where widths differ. Gradients flow to student and projection, never to the teacher.
    Raises ValueError where shapes do not fit.
    """
    if kind not in ("mse", "cosine"):
        raise ValueError(f"unknown kind {kind!r}; known: mse, cosine")
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in positions"
        )
    if projection is not None and tuple(projection.shape) != (teacher.shape[-1], student.shape[-1]):
        raise ValueError(
            f"the projection has shape {tuple(projection.shape)}; "
            "it must be (teacher width, student width) "
            f"= ({teacher.shape[-1]}, {student.shape[-1]})"
        )
    if projection is None and student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"widths {student.shape[-1]} and {teacher.shape[-1]} differ: give a projection"
        )
    teacher = teacher.detach()
    if mask is not None:
        if mask.shape != student.shape[:-1]:
            raise ValueError(
                f"the mask has shape {tuple(mask.shape)}, the positions {tuple(student.shape[:-1])}"
            )
        student, teacher = student[mask.bool()], teacher[mask.bool()]
    if projection is not None:
        student = F.linear(student, projection.to(student.dtype))
    wide = wide_dtype(student)
    student, teacher = student.to(wide), teacher.to(wide)
    if kind == "mse":
        return (student - teacher).square().sum() / max(student.numel(), 1)
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).sum() / max(
        student.numel() // max(student.shape[-1], 1), 1
    )
