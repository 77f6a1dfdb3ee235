"""The parts of an objective that compare blocks: relations, attention, hidden states.

The LM loss and the divergence of the distributions come from the LM head together (head.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.distillation.places import stack_of
from pipeline.distillation.references import Outputs, ReferenceTeacher
from pipeline.families import Family, Shape
from pipeline.families.base import Stack
from pipeline.families.recorder import BlockInput
from pipeline.objectives import presets
from pipeline.objectives.attention import attention_loss
from pipeline.objectives.hidden import hidden_loss
from pipeline.objectives.relations import relation_loss
from pipeline.recipe import HiddenPair, Objective
from pipeline.student.shapes import default_relation_heads

#: The valid positions of each stack: (batch, length), nonzero where valid.
Valid = Mapping[Stack, torch.Tensor]


class Part(Protocol):
    """A part of an objective: one kind of distance between the student and one teacher."""

    def loss(self, student: Outputs, teacher: Outputs, valid: Valid) -> torch.Tensor:
        """Return a scalar."""
        ...


class Relations:
    """Multi-head relations of q, k and v at one attention (MiniLMv2, arXiv 2012.15828)."""

    def __init__(self, part: str, heads: int) -> None:
        """Choose the attention of a part. heads: relation heads that q, k and v are split into."""
        self._attention, self._pairs = presets.ATTENTION_OF[part], presets.RELATION_PAIRS[part]
        self._heads = heads

    def loss(self, student: Outputs, teacher: Outputs, valid: Valid) -> torch.Tensor:
        teacher_qkv = teacher.projections[self._attention]
        student_qkv = student.projections[self._attention]
        losses = [
            relation_loss(
                (teacher_qkv[pair.a], teacher_qkv[pair.b]),
                (student_qkv[pair.a], student_qkv[pair.b]),
                relation_heads=self._heads,
                query_mask=valid[pair.rows],
                key_mask=valid[pair.columns],
                causal=pair.causal,
            )
            for pair in self._pairs
        ]
        return torch.stack(losses).mean()


class AttentionDistributions:
    """Attention distributions at one attention (MiniLM, arXiv 2002.10957)."""

    def __init__(
        self,
        part: str,
        student: PreTrainedModel,
        family: Family,
        objective: Objective,
        teacher: ReferenceTeacher,
    ) -> None:
        self._attention = presets.ATTENTION_OF[part]
        self._student, self._family, self._teacher = student, family, teacher
        blocks = objective.blocks
        encoder = stack_of(self._attention) == "encoder"
        self._block = blocks.student_encoder if encoder else blocks.student_decoder

    def loss(self, student: Outputs, teacher: Outputs, valid: Valid) -> torch.Tensor:
        attention, config = self._attention, self._student.config
        teacher_qkv, student_qkv = teacher.projections[attention], student.projections[attention]
        rows, columns = student_qkv["q"].shape[1], student_qkv["k"].shape[1]
        return attention_loss(
            (teacher_qkv["q"], teacher_qkv["k"]),
            (student_qkv["q"], student_qkv["k"]),
            heads=self._family.shape(config).num_heads,
            teacher_scale=self._teacher.attention_scale,
            student_scale=self._family.attention_scale(config),
            teacher_bias=self._teacher.position_bias(attention, rows, columns),
            student_bias=self._family.position_bias(
                self._student, attention, self._block, rows, columns
            ),
            query_mask=valid[stack_of(attention)],
            key_mask=valid["decoder" if attention == "decoder_self" else "encoder"],
            causal=attention == "decoder_self",
        )


class HiddenStates(nn.Module):
    """Hidden states at pairs of blocks, through trained projections where widths differ."""

    def __init__(
        self, objective: Objective, teacher_width: int, student_width: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._pairs, self._kind = objective.hidden, objective.hidden_kind
        self.losses = nn.ModuleList(
            HiddenLoss(teacher_width, student_width, dtype) for _ in self._pairs
        )

    def loss(self, student: Outputs, teacher: Outputs, valid: Valid) -> torch.Tensor:
        losses = [
            module(
                _at(student, pair, "student"),
                _at(teacher, pair, "teacher"),
                valid[pair.stack],
                self._kind,
            )
            for module, pair in zip(self.losses, self._pairs, strict=True)
        ]
        return torch.stack(losses).mean()


class HiddenLoss(nn.Module):
    """Computes `hidden_loss`, with a trained projection where teacher and student widths differ.

    It is a module of its own, so that ZeRO-3 gathers the projection where it is used.
    """

    def __init__(self, teacher_width: int, student_width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_parameter("projection", None)
        if teacher_width != student_width:
            # The same weights on every rank and at every start.
            generator = torch.Generator().manual_seed(0)
            weight = torch.randn(teacher_width, student_width, generator=generator)
            self.projection = nn.Parameter((weight * student_width**-0.5).to(dtype))

    def forward(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        mask: torch.Tensor,
        kind: Literal["mse", "cosine"],
    ) -> torch.Tensor:
        return hidden_loss(student, teacher, mask, kind=kind, projection=self.projection)


def comparing_parts(
    objective: Objective,
    names: list[str],
    student: PreTrainedModel,
    family: Family,
    teacher: ReferenceTeacher,
) -> dict[str, Part]:
    """Return the parts among `names` that compare blocks with one teacher."""
    shape: Shape = family.shape(student.config)
    parts: dict[str, Part] = {}
    for name in names:
        if name.endswith("_relations"):
            heads = objective.relation_heads or default_relation_heads(shape, teacher.shape)
            parts[name] = Relations(name, heads)
        elif name.endswith("_attention"):
            parts[name] = AttentionDistributions(name, student, family, objective, teacher)
        elif name == "hidden":
            widths = teacher.shape.d_model, shape.d_model
            parts[name] = HiddenStates(objective, *widths, student.dtype)
    return parts


def _at(outputs: Outputs, pair: HiddenPair, model: Literal["student", "teacher"]) -> torch.Tensor:
    """Return the hidden states of one model at a pair of blocks."""
    block = getattr(pair, model)
    if block == "output":
        return outputs.encoder if pair.stack == "encoder" else outputs.decoder
    return outputs.inputs[BlockInput(pair.stack, block)]
