"""A loaded teacher, whole on this process's device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families import Family, family_of
from pipeline.families.base import Head
from pipeline.models import ModelDirectory
from pipeline.models.loading import load_whole
from pipeline.teacher.capture import Captured, capture

if TYPE_CHECKING:
    from pipeline.training.loader import Batch

#: Configuration and weights of a tail.
TailState = tuple[PretrainedConfig, dict[str, torch.Tensor]]


class Teacher(Protocol):
    """A loaded teacher: whole (`WholeTeacher`) or partitioned (`PartitionedTeacher`)."""

    #: For its configuration and for hooks; use `run` to run it.
    model: PreTrainedModel
    family: Family
    #: The LM head with its whole weight, on `device`.
    head: Head
    device: torch.device

    def run(self, batch: Batch, whole: bool) -> Captured:
        """Make a forward pass like `capture`. whole: run to the end, not to the decoder's cut."""
        ...

    def tail_state(self) -> TailState:
        """Return configuration and weights of the tail from the cuts on."""
        ...

    def most_passes(self, needed: int) -> int:
        """Return how many forward passes this process must make.

        needed: the number it makes for its own work. Ranks that run the teacher together all make
        as many as the one that needs most.
        """
        ...

    def close(self) -> None:
        """Release everything the teacher holds except its tensors."""
        ...


class WholeTeacher:
    """A whole model on its device; each process runs its own."""

    def __init__(self, model: PreTrainedModel, cuts: tuple[int, int]) -> None:
        """Prepare a model for inference. cuts: the blocks of each stack whose input is captured."""
        self.model = model.eval().requires_grad_(False)
        self.family = family_of(model.config)
        self.head = self.family.head(model)
        self.device = model.device
        self._cuts = cuts

    def run(self, batch: Batch, whole: bool) -> Captured:
        return capture(self.model, self.family, self._cuts, batch, whole=whole)

    def tail_state(self) -> TailState:
        return self.family.tail_state(self.model, *self._cuts)

    def most_passes(self, needed: int) -> int:
        return needed

    def close(self) -> None:
        pass


def load_teacher(
    directory: ModelDirectory, dtype: str, cuts: tuple[int, int], deepspeed: str | None = None
) -> Teacher:
    """Load a teacher onto this process's device, or over all ranks if a DeepSpeed JSON is named.

    dtype: the dtype it computes in. With a JSON, every rank must call it, and all make their
    forward passes together. Raises ConfigError when the JSON does not ask for ZeRO-3, or a weight
    is missing.
    """
    if deepspeed is not None:
        from pipeline.teacher.partitioned import PartitionedTeacher

        return PartitionedTeacher(directory, dtype, cuts, deepspeed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = load_whole(directory, getattr(torch, dtype))
    return WholeTeacher(model.to(device), cuts)
