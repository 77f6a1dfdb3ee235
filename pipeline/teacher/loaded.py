"""A teacher that is ready to run, whole on this process's device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

from pipeline.families import Family, family_of
from pipeline.families.base import Head
from pipeline.models import ModelDirectory
from pipeline.teacher.capture import Captured, capture

if TYPE_CHECKING:
    from pipeline.training.loader import Batch

#: Configuration and weights of a tail.
TailState = tuple[PretrainedConfig, dict[str, torch.Tensor]]


class Teacher(Protocol):
    """A loaded teacher: whole (`WholeTeacher`) or spread over the ranks (`PartitionedTeacher`)."""

    #: For its configuration and for hooks; `run` runs it.
    model: PreTrainedModel
    family: Family
    #: With its whole weight, on `device`.
    head: Head
    device: torch.device

    def run(self, batch: Batch, whole: bool) -> Captured:
        """Make a forward pass, as `capture` says. whole: run to the end, not to the decoder's cut."""
        ...

    def tail_state(self) -> TailState:
        """Return configuration and weights of the tail from the cuts on."""
        ...

    def most_passes(self, own: int) -> int:
        """Return how many forward passes this process must make, of which `own` are its own work."""
        ...

    def close(self) -> None:
        """Free what the teacher holds besides its tensors."""
        ...


class WholeTeacher:
    """A model that is whole on its device; each process runs its own."""

    def __init__(self, model: PreTrainedModel, cuts: tuple[int, int]) -> None:
        """cuts: the encoder and decoder block whose input is captured."""
        self.model = model.eval().requires_grad_(False)
        self.family = family_of(model.config)
        self.head = self.family.head(model)
        self.device = model.device
        self._cuts = cuts

    def run(self, batch: Batch, whole: bool) -> Captured:
        return capture(self.model, self.family, self._cuts, batch, whole=whole)

    def tail_state(self) -> TailState:
        return self.family.tail_state(self.model, *self._cuts)

    def most_passes(self, own: int) -> int:
        return own

    def close(self) -> None:
        pass


def load_teacher(
    directory: ModelDirectory, dtype: str, cuts: tuple[int, int], deepspeed: str | None = None
) -> Teacher:
    """Load a teacher onto this process's device, or over all ranks when a DeepSpeed JSON is named.

    dtype: what it computes in. In the latter case every rank calls it, and all make their forward
    passes together; raises ConfigError when the JSON does not ask for ZeRO-3.
    """
    if deepspeed is not None:
        from pipeline.teacher.partitioned import PartitionedTeacher

        return PartitionedTeacher(directory, dtype, cuts, deepspeed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(directory.path, dtype=getattr(torch, dtype))
    return WholeTeacher(model.to(device), cuts)
