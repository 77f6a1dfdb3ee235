"""The student and its objective as one module, which DeepSpeed wraps.

Its forward pass returns the loss of every part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.distillation.head import DenseTarget, LossHead, SampledTarget, Target, TopkTarget
from pipeline.distillation.objective import part_weights
from pipeline.distillation.parts import HiddenStates, Part, Valid, comparing_parts
from pipeline.distillation.places import check_objective, student_places
from pipeline.distillation.references import Outputs, Reference
from pipeline.distillation.sides import Side, shares
from pipeline.families import family_of
from pipeline.families.recorder import Recorder
from pipeline.families.stacks import decode, encode
from pipeline.models.architecture import Architecture
from pipeline.objectives.divergence import FORWARD_KL, Divergence
from pipeline.objectives.head import LossWeights
from pipeline.objectives.weight_schedules import Taid, scheduled, taid_step
from pipeline.recipe import Objective
from pipeline.training.loader import Batch

#: The result of a forward pass: the objective's losses, only the LM loss, or the most probable
#: tokens.
Wanted = Literal["losses", "lm", "ids"]


class Distiller(nn.Module):
    """Computes the parts of an objective for one batch.

    The module holds the student, and the projections that the part `hidden` trains where widths
    differ (they are not exported to `hf/`). The teachers are not part of the module. TAID's share
    is the only state it carries from step to step (`state`, `restore`).
    """

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        sides: Sequence[Side],
        max_steps: int,
    ) -> None:
        """Build the parts; raises ConfigError for shapes that do not fit.

        sides: the teachers; none when the objective is only the LM loss.
        """
        super().__init__()
        self.student = student
        self._objective, self._weights = objective, part_weights(objective)
        self._sides, self._max_steps = tuple(sides), max_steps
        self._family = family_of(student.config)
        divergence = FORWARD_KL
        if "logits" in self._weights:
            divergence = Divergence(objective.divergence, objective.alpha, objective.temperature)
        self.head = LossHead(student, self._family, divergence)
        self._taid = Taid(objective.taid.start) if objective.taid is not None else None
        self._recorder = Recorder(student, self._family, *student_places(objective))
        self._architecture = Architecture.of(student.config)
        self._parts = [self._parts_of(side) for side in self._sides]

    def forward(
        self, batch: Batch, step: int = 0, wanted: Wanted = "losses"
    ) -> dict[str, torch.Tensor]:
        """Return scalars: "loss", the weighted sum, and every part, plain and as "weighted_<name>".

        batch: input_ids, attention_mask, labels and the columns that the teachers read.
        wanted: "lm" returns only "lm", for validation. "ids" returns only "ids", (rows, L_out): the
            most probable token at each position, given the labels before it.
        """
        labels = batch["labels"]
        outputs = self._run(batch)
        if wanted != "losses":
            return self.head(outputs.decoder, labels if wanted == "lm" else None, None)
        weights = {part: scheduled(weight, step) for part, weight in self._weights.items()}
        parts: dict[str, torch.Tensor] = {}
        weighted: dict[str, torch.Tensor] = {}
        if not self._sides:
            parts = self.head(outputs.decoder, labels, None)
            weighted = {"lm": weights["lm"] * parts["lm"].float()}
        for number, share in enumerate(shares(self._sides, step)):
            # The LM loss does not need a teacher: it is computed once, with the first side.
            side_weights = {
                part: weight if part == "lm" else share * weight
                for part, weight in weights.items()
                if part != "lm" or number == 0
            }
            side = self._sides[number]
            losses = self._losses(number, outputs, side.targets_of(batch), side_weights)
            parts |= {side.logged(part): loss for part, loss in losses.items()}
            weighted |= {
                side.logged(part): weight * losses[part].float()
                for part, weight in side_weights.items()
            }
        total = torch.stack(list(weighted.values())).sum()
        detached = {f"weighted_{part}": value.detach() for part, value in weighted.items()}
        return {"loss": total, **parts, **detached}

    def flops(self, source: int, target: int) -> float:
        """Return the operations of training on one example.

        They include the student's, and the forward pass or replay of each teacher.
        """
        total = self._architecture.training_flops(source, target).total
        logits = "logits" in self._weights
        for side in self._sides:
            if side.teacher is not None:
                total += side.teacher.flops(source, target, logits)
        return total

    def after_step(self, step: int, means: Mapping[str, float]) -> None:
        """Update TAID's share. means: of each part over the step's micro batches and ranks."""
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
        """Return whether `after_step` needs the means of every step."""
        return self._taid is not None

    def state(self) -> dict[str, Any]:
        """Return the state to store in a checkpoint in addition to the weights."""
        return {} if self._taid is None else {"taid": list(self._taid)}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self._taid is not None and "taid" in state:
            self._taid = Taid(*state["taid"])

    def _parts_of(self, side: Side) -> dict[str, Part]:
        """Return the parts that compare blocks with one teacher.

        Parts with weights of their own become submodules.
        """
        if side.teacher is None:
            return {}
        check_objective(self._objective, self._architecture.shape, side.teacher.shape)
        parts = comparing_parts(
            self._objective, list(self._weights), self.student, self._family, side.teacher
        )
        for name, part in parts.items():
            if isinstance(part, HiddenStates):
                self.add_module(side.logged(name), part)
        return parts

    def _run(self, batch: Batch) -> Outputs:
        """Run both stacks of the student, recording what the objective looks at."""
        student: Any = self.student
        mask = batch["attention_mask"]
        decoder_input_ids = batch.get("decoder_input_ids")
        if decoder_input_ids is None:
            labels = batch["labels"]
            decoder_input_ids = student.prepare_decoder_input_ids_from_labels(labels=labels)
        with self._recorder as recorder:
            encoder = encode(student, mask, input_ids=batch["input_ids"])
            decoder = decode(student, encoder, mask, decoder_input_ids=decoder_input_ids)
        return Outputs(encoder, decoder, recorder.projections, recorder.inputs)

    def _losses(
        self, number: int, student: Outputs, batch: Batch, weights: Mapping[str, float]
    ) -> dict[str, torch.Tensor]:
        """Return the loss of every part for one side. weights: of each part in the total."""
        side, labels = self._sides[number], batch["labels"]
        reference = side.teacher.reference(batch) if side.teacher is not None else None
        losses = self._head_losses(student, batch, reference, weights)
        if reference is not None:
            valid: Valid = {"encoder": batch["attention_mask"], "decoder": labels != -100}
            for name, part in self._parts[number].items():
                losses[name] = part.loss(student, reference, valid)
        return losses

    def _head_losses(
        self,
        student: Outputs,
        batch: Batch,
        reference: Reference | None,
        weights: Mapping[str, float],
    ) -> dict[str, torch.Tensor]:
        """Return the parts "lm" and "logits", if `weights` has them."""
        target = _target(batch, reference) if "logits" in weights else None
        if target is None and "lm" not in weights:
            return {}
        return self.head(
            student.decoder,
            batch["labels"],
            target,
            with_lm="lm" in weights,
            target_share=self._taid.share if self._taid is not None else 1.0,
            weights=LossWeights(weights.get("logits", 0.0), weights.get("lm", 0.0)),
        )


def _target(batch: Batch, reference: Reference | None) -> Target:
    """Return a teacher's distributions, from its outputs or from cached targets in the batch."""
    if reference is not None:
        return DenseTarget(reference.decoder, reference.head)
    if "sampled_ids" in batch:
        return SampledTarget(batch["sampled_ids"], batch["sampled_counts"])
    return TopkTarget(batch["topk_ids"], batch["topk_log_probabilities"], batch["topk_log_tail"])
