"""The student together with its objective, as one module: DeepSpeed wraps it, its forward gives every part's loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Attention, Shape, family_of
from pipeline.families.base import Stack
from pipeline.families.recorder import QKV, BlockInput, Recorder
from pipeline.families.stacks import decode, encode
from pipeline.objectives import presets
from pipeline.objectives.attention import attention_loss
from pipeline.objectives.divergence import FORWARD_KL, Divergence
from pipeline.objectives.head import LossWeights
from pipeline.objectives.hidden import hidden_loss
from pipeline.objectives.relations import relation_loss
from pipeline.objectives.schedules import Scheduled, Taid, scheduled, taid_step
from pipeline.recipe import HiddenPair, Objective
from pipeline.student.shapes import check_relation_heads, default_relation_heads
from pipeline.training.head import DenseTarget, LossHead, SampledTarget, Target, TopkTarget
from pipeline.training.loader import Batch
from pipeline.training.rows import originals
from pipeline.training.targets import part_weights
from pipeline.training.teachers import Reference, Teacher
from pipeline.training.window import model_cost


def check_objective(objective: Objective, student: Shape, teacher: Shape) -> None:
    """Raise ConfigError for shapes of student and teacher that a part of the objective cannot compare.

    teacher: its layers are those that can be replayed.
    """
    weights = part_weights(objective)
    if any(part.endswith("_relations") for part in weights):
        heads = objective.relation_heads or default_relation_heads(student, teacher)
        check_relation_heads(
            heads, student=student.attention_width, teacher=teacher.attention_width
        )
    if (
        any(part.endswith("_attention") for part in weights)
        and student.num_heads != teacher.num_heads
    ):
        raise ConfigError(
            f"the objective's attention parts need equally many heads, but the student has {student.num_heads} and the teacher "
            f"{teacher.num_heads}: use the relation parts, or set student.num_heads={teacher.num_heads}"
        )
    blocks = objective.blocks
    places = [
        ("blocks.teacher_encoder", blocks.teacher_encoder, teacher.encoder_layers),
        ("blocks.teacher_decoder", blocks.teacher_decoder, teacher.decoder_layers),
        ("blocks.student_encoder", blocks.student_encoder, student.encoder_layers),
        ("blocks.student_decoder", blocks.student_decoder, student.decoder_layers),
    ]
    for index, pair in enumerate(objective.hidden if "hidden" in weights else []):
        for who, shape in (("teacher", teacher), ("student", student)):
            layers = shape.encoder_layers if pair.stack == "encoder" else shape.decoder_layers
            place = getattr(pair, who)
            places.append((f"hidden.{index}.{who}", None if place == "output" else place, layers))
    for name, block, layers in places:
        if block is not None and -block > layers:
            hint = " (a deeper cut caches more of the teacher)" if "teacher" in name else ""
            raise ConfigError(
                f"distill.objective.{name} is {block}, but there are {layers} blocks{hint}"
            )


@dataclass(frozen=True)
class Original:
    """A second teacher, whose targets a batch holds under names of their own; `weight`: its share of the objective."""

    #: None where the cached targets are all there is to it.
    teacher: Teacher | None
    weight: Scheduled


@dataclass(frozen=True)
class _Side:
    """One teacher's side of the objective; teacher: None where the batch's own targets are all there is to it."""

    teacher: Teacher | None
    relation_heads: int
    #: The projections of the part `hidden`.
    hidden: nn.ModuleList


class Distiller(nn.Module):
    """Computes the parts of an objective for one batch.

    Holds the student, and the projections that the part `hidden` trains where widths differ (left out of `hf/`); the teacher is
    not part of the module. TAID's share is the one thing it carries from step to step (`state`, `restore`).
    """

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        teacher: Teacher | None,
        max_steps: int,
        original: Original | None = None,
    ) -> None:
        """teacher: None when the objective is the LM loss alone, or its targets are in the batch as they are.

        original: a second teacher; of every part that compares, it takes the share `weight`, and `teacher` keeps the rest.
        Raises ConfigError for shapes that do not fit.
        """
        super().__init__()
        self.student = student
        self._objective, self._weights, self._max_steps = (
            objective,
            part_weights(objective),
            max_steps,
        )
        self._original_weight = original.weight if original is not None else None
        self._family = family_of(student.config)
        self._shape = self._family.shape(student.config)
        divergence = (
            Divergence(objective.divergence, objective.alpha, objective.temperature)
            if "logits" in self._weights
            else FORWARD_KL
        )
        self.head = LossHead(student, self._family, divergence)
        self._taid = Taid(objective.taid.start) if objective.taid is not None else None
        self._side = self._side_of(teacher, student.dtype)
        self.hidden = self._side.hidden
        self._original = (
            self._side_of(original.teacher, student.dtype) if original is not None else None
        )
        if self._original is not None:
            self.original_hidden = self._original.hidden
        blocks, places = student_places(objective)
        self._recorder = Recorder(student, self._family, blocks, places)

    def forward(
        self, batch: Batch, step: int = 0, lm_only: bool = False, predict: bool = False
    ) -> dict[str, torch.Tensor]:
        """Return "loss", the weighted sum, and every part under its name and, weighted, under "weighted_<name>": scalars.

        batch: input_ids, attention_mask, labels and what the teacher reads. lm_only: return "lm" alone, for validation.
        predict: return "ids" alone, (rows, L_out): after each position of the labels before it the most probable token.
        """
        labels, mask = batch["labels"], batch["attention_mask"]
        student: Any = self.student
        decoder_input_ids = student.prepare_decoder_input_ids_from_labels(labels=labels)
        with self._recorder as recorder:
            encoder_output = encode(self.student, mask, input_ids=batch["input_ids"])
            decoder_output = decode(
                self.student, encoder_output, mask, decoder_input_ids=decoder_input_ids
            )
        if predict:
            return self.head(decoder_output, None, None)
        if lm_only:
            return self.head(decoder_output, labels, None)
        outputs = {"encoder": encoder_output, "decoder": decoder_output}
        weights = {part: scheduled(weight, step) for part, weight in self._weights.items()}
        share = 0.0 if self._original_weight is None else scheduled(self._original_weight, step)
        own = {
            part: weight if part == "lm" else (1.0 - share) * weight
            for part, weight in weights.items()
        }
        parts = self._parts(self._side, outputs, recorder, batch, own)
        weighted = {part: weight * parts[part].float() for part, weight in own.items()}
        if self._original is not None:
            theirs = {part: share * weight for part, weight in weights.items() if part != "lm"}
            others = self._parts(self._original, outputs, recorder, originals(batch), theirs)
            parts |= {f"original_{part}": value for part, value in others.items()}
            weighted |= {
                f"original_{part}": theirs[part] * value.float() for part, value in others.items()
            }
        total = torch.stack(list(weighted.values())).sum()
        return {
            "loss": total,
            **parts,
            **{f"weighted_{part}": value.detach() for part, value in weighted.items()},
        }

    def _side_of(self, teacher: Teacher | None, dtype: torch.dtype) -> _Side:
        hidden = nn.ModuleList()
        if teacher is None:
            return _Side(None, 1, hidden)
        check_objective(self._objective, self._shape, teacher.shape)
        if "hidden" in self._weights:
            widths = teacher.shape.d_model, self._shape.d_model
            hidden.extend(HiddenLoss(*widths, dtype) for _ in self._objective.hidden)
        heads = self._objective.relation_heads or default_relation_heads(self._shape, teacher.shape)
        return _Side(teacher, heads, hidden)

    def _parts(
        self,
        side: _Side,
        outputs: dict[str, torch.Tensor],
        recorder: Recorder,
        batch: Batch,
        weights: Mapping[str, float],
    ) -> dict[str, torch.Tensor]:
        """Every part of the objective against one teacher; weights: what each part counts in the total, the LM loss among them or not."""
        labels = batch["labels"]
        reference = side.teacher.reference(batch) if side.teacher is not None else None
        parts = self._head_parts(outputs["decoder"], labels, batch, reference, weights)
        valid = {"encoder": batch["attention_mask"], "decoder": labels != -100}
        if reference is not None:
            for part in self._weights.keys() & presets.ATTENTION_OF.keys():
                attention = presets.ATTENTION_OF[part]
                compare = self._relations if part.endswith("_relations") else self._attention
                parts[part] = compare(
                    side,
                    attention,
                    part,
                    reference.projections[attention],
                    recorder.projections[attention],
                    valid,
                )
            if "hidden" in self._weights:
                parts["hidden"] = self._hidden(side, outputs, recorder.inputs, reference, valid)
        return parts

    def cost(self, input_length: int, target_length: int) -> float:
        """Operations of training on one example: the student's forward and backward pass and the teacher's forward or replay."""
        total = model_cost(self.student.config)(input_length, target_length)
        for side in (self._side, self._original):
            if side is not None and side.teacher is not None:
                total += side.teacher.cost(input_length, target_length, "logits" in self._weights)
        return total

    def after_step(self, step: int, means: Mapping[str, float]) -> None:
        """Move TAID's share; means: the parts' means over the step's micro batches and ranks."""
        if self._taid is not None and self._objective.taid is not None and "logits" in means:
            settings = self._objective.taid
            self._taid = taid_step(
                self._taid,
                means["logits"],
                (step + 1) / self._max_steps,
                start=settings.start,
                alpha=settings.alpha,
                beta=settings.beta,
            )

    @property
    def follows_means(self) -> bool:
        """Whether `after_step` needs the means of every step."""
        return self._taid is not None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights."""
        return {} if self._taid is None else {"taid": list(self._taid)}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self._taid is not None and "taid" in state:
            self._taid = Taid(*state["taid"])

    def _head_parts(
        self,
        hidden: torch.Tensor,
        labels: torch.Tensor,
        batch: Batch,
        reference: Reference | None,
        weights: Mapping[str, float],
    ) -> dict[str, torch.Tensor]:
        target: Target | None = None
        if "logits" in self._weights:
            if reference is not None:
                target = DenseTarget(reference.decoder_output, reference.head)
            elif "sampled_ids" in batch:
                target = SampledTarget(batch["sampled_ids"], batch["sampled_counts"])
            else:
                target = TopkTarget(
                    batch["topk_ids"], batch["topk_log_probabilities"], batch["topk_log_tail"]
                )
        if target is None and "lm" not in weights:
            return {}
        return self.head(
            hidden,
            labels,
            target,
            with_lm="lm" in weights,
            target_share=self._taid.share if self._taid is not None else 1.0,
            weights=LossWeights(weights.get("logits", 0.0), weights.get("lm", 0.0)),
        )

    def _relations(
        self,
        side: _Side,
        attention: Attention,
        part: str,
        teacher: QKV,
        student: QKV,
        valid: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        losses = [
            relation_loss(
                (teacher[pair.a], teacher[pair.b]),
                (student[pair.a], student[pair.b]),
                relation_heads=side.relation_heads,
                query_mask=valid[pair.rows],
                key_mask=valid[pair.columns],
                causal=pair.causal,
            )
            for pair in presets.RELATION_PAIRS[part]
        ]
        return torch.stack(losses).mean()

    def _attention(
        self,
        side: _Side,
        attention: Attention,
        part: str,
        teacher: QKV,
        student: QKV,
        valid: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        assert side.teacher is not None
        rows, columns = student["q"].shape[1], student["k"].shape[1]
        block = self._objective.blocks.student_encoder if attention == "encoder_self" else -1
        if attention != "encoder_self":
            block = self._objective.blocks.student_decoder
        return attention_loss(
            (teacher["q"], teacher["k"]),
            (student["q"], student["k"]),
            heads=self._shape.num_heads,
            teacher_scale=side.teacher.attention_scale,
            student_scale=self._family.attention_scale(self.student.config),
            teacher_bias=side.teacher.position_bias(attention, rows, columns),
            student_bias=self._family.position_bias(self.student, attention, block, rows, columns),
            query_mask=valid["encoder" if attention == "encoder_self" else "decoder"],
            key_mask=valid["decoder" if attention == "decoder_self" else "encoder"],
            causal=attention == "decoder_self",
        )

    def _hidden(
        self,
        side: _Side,
        outputs: dict[str, torch.Tensor],
        inputs: dict[BlockInput, torch.Tensor],
        reference: Reference,
        valid: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        theirs = {"encoder": reference.encoder_output, "decoder": reference.decoder_output}
        losses = []
        for module, pair in zip(side.hidden, self._objective.hidden, strict=True):
            ours = (
                outputs[pair.stack]
                if pair.student == "output"
                else inputs[BlockInput(pair.stack, pair.student)]
            )
            other = theirs[pair.stack]
            if pair.teacher != "output":
                other = reference.inputs[BlockInput(pair.stack, pair.teacher)]
            losses.append(module(ours, other, valid[pair.stack], self._objective.hidden_kind))
        return torch.stack(losses).mean()


class HiddenLoss(nn.Module):
    """`hidden_loss` with the projection it trains where the widths of teacher and student differ.

    A module of its own, so that ZeRO-3 gathers the projection where it is used.
    """

    def __init__(self, teacher_width: int, student_width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_parameter("projection", None)
        if teacher_width != student_width:
            # The same on every rank and at every start.
            generator = torch.Generator().manual_seed(0)
            weight = (
                torch.randn(teacher_width, student_width, generator=generator) * student_width**-0.5
            )
            self.projection = nn.Parameter(weight.to(dtype))

    def forward(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        mask: torch.Tensor,
        kind: Literal["mse", "cosine"],
    ) -> torch.Tensor:
        return hidden_loss(student, teacher, mask, kind=kind, projection=self.projection)


def looks_at_encoder_blocks(objective: Objective) -> bool:
    """Whether a part compares anything of the teacher's encoder but its output."""
    blocks, inputs = teacher_places(objective, -1)
    return "encoder_self" in blocks or any(place.stack == "encoder" for place in inputs)


def student_places(objective: Objective) -> tuple[dict[Attention, int], list[BlockInput]]:
    """Return what must be recorded of the student: the block of each attention, and block inputs."""
    blocks = objective.blocks
    return _places(objective, blocks.student_encoder, blocks.student_decoder, "student")


def watched_blocks(objective: Objective) -> set[tuple[Stack, int]]:
    """The student's blocks (stack, index from the end) whose q, k and v are recorded."""
    blocks, _ = student_places(objective)
    return {
        ("encoder" if attention == "encoder_self" else "decoder", block)
        for attention, block in blocks.items()
    }


def teacher_places(
    objective: Objective, default: int
) -> tuple[dict[Attention, int], list[BlockInput]]:
    """The same of the teacher; default: the block where the recipe names none."""
    blocks = objective.blocks
    encoder = default if blocks.teacher_encoder is None else blocks.teacher_encoder
    decoder = default if blocks.teacher_decoder is None else blocks.teacher_decoder
    return _places(objective, encoder, decoder, "teacher")


def _places(
    objective: Objective, encoder: int, decoder: int, who: str
) -> tuple[dict[Attention, int], list[BlockInput]]:
    weights = part_weights(objective)
    attentions = {presets.ATTENTION_OF[part] for part in weights if part in presets.ATTENTION_OF}
    blocks = {
        attention: encoder if attention == "encoder_self" else decoder for attention in attentions
    }
    pairs: list[HiddenPair] = objective.hidden if "hidden" in weights else []
    inputs = [
        BlockInput(pair.stack, getattr(pair, who))
        for pair in pairs
        if getattr(pair, who) != "output"
    ]
    return blocks, inputs
