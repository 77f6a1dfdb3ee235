"""The sides of an objective: a student's teachers, each with a share.

A batch holds each side's cached targets under the side's prefix, and each side's parts are logged
under it. The first side has no prefix. The original teacher of a chain has `original.` in batches
and `original_` in logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.artifacts import Artifact
from pipeline.distillation.places import looks_at_encoder_blocks, teacher_places
from pipeline.distillation.references import CachedTeacher, OnlineTeacher, ReferenceTeacher
from pipeline.objectives.weight_schedules import Scheduled, scheduled
from pipeline.recipe import Distill, Objective
from pipeline.teacher.cached_targets import CachedTargets, check_labels, open_tail
from pipeline.teacher.job import CacheJob
from pipeline.teacher.loaded import load_teacher
from pipeline.training.loader import Batch


@dataclass(frozen=True)
class Side:
    """One teacher in an objective."""

    #: The prefix of the names of its targets and losses; empty for the first side.
    prefix: str
    #: Its share of every part that compares; None for the rest that the other sides leave.
    share: Scheduled | None
    #: None if the cached targets need no model.
    teacher: ReferenceTeacher | None

    def targets_of(self, batch: Batch) -> Batch:
        """Return the batch of this side, with its own targets under their plain names."""
        if not self.prefix:
            return batch
        start = column_prefix(self.prefix)
        columns = {
            name.removeprefix(start): column
            for name, column in batch.items()
            if name.startswith(start)
        }
        return batch | columns

    def logged(self, part: str) -> str:
        """Return the name under which a part of this side is logged."""
        return f"{self.prefix}_{part}" if self.prefix else part


def column_prefix(prefix: str) -> str:
    """Return the prefix of the names of a side's targets in a batch."""
    return f"{prefix}." if prefix else ""


def shares(sides: Sequence[Side], step: int) -> list[float]:
    """Return each side's share of the objective at a step; they sum to 1."""
    fixed = [None if side.share is None else scheduled(side.share, step) for side in sides]
    rest = 1.0 - sum(share for share in fixed if share is not None)
    return [rest if share is None else share for share in fixed]


def open_targets(job: CacheJob, settings: Distill) -> CachedTargets:
    """Open the finished cache of one side; raises ConfigError when it lacks the kind of target."""
    assert settings.targets != "online"
    cache = Artifact(job.output.root, "teacher_cache")
    encoder_blocks = looks_at_encoder_blocks(settings.objective)
    return CachedTargets(cache, settings.targets, encoder_blocks=encoder_blocks)


def open_side(
    prefix: str,
    share: Scheduled | None,
    job: CacheJob,
    targets: CachedTargets | None,
    objective: Objective,
    device: torch.device,
) -> Side:
    """Open one side of the objective.

    targets: its cached targets; None when the teacher itself runs at every step. Raises
    CorruptArtifact when the cached targets do not belong to the labels.
    """
    if targets is None:
        # Captured states are not used, but a block must be named.
        loaded = load_teacher(job.teacher, job.dtype, (0, 0), job.deepspeed)
        return Side(prefix, share, OnlineTeacher(loaded, *teacher_places(objective, -1)))
    tail = None
    if targets.kind == "states":
        # Block 0 of the tail is the block at the cut.
        tail = open_tail(targets.cache, device, *teacher_places(objective, 0))
    check_labels(job.tokens, targets, 0, job.teacher.architecture.pad_token_id, tail)
    if tail is None:
        return Side(prefix, share, None)
    stored = targets.settings.states
    replays = looks_at_encoder_blocks(objective) or not stored.encoder_output
    return Side(prefix, share, CachedTeacher(tail, stored, replays_encoder=replays))
