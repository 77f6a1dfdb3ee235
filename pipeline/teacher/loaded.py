"""A teacher that is ready to run: whole on this process's device, or (training/partitioned.py) spread over all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.families import Family, family_of
from pipeline.families.base import Head
from pipeline.hardware import resolve_dtype
from pipeline.models import open_model
from pipeline.recipe import Teacher
from pipeline.teacher.capture import Captured, capture

Batch = dict[str, torch.Tensor]


@dataclass
class LoadedTeacher:
    #: For its configuration and for hooks; `run` runs it.
    model: PreTrainedModel
    family: Family
    #: (batch, whole) → what a forward pass leaves, as `capture` says.
    run: Callable[[Batch, bool], Captured]
    #: With its whole weight, on `device`.
    head: Head
    #: Configuration and weights of the tail from the cuts on.
    tail: Callable[[], tuple[Any, dict[str, torch.Tensor]]]
    device: torch.device
    #: The most forward passes any rank makes, from those of this one; None when ranks do not depend on each other.
    most_passes: Callable[[int], int] | None = None
    #: Frees what the teacher holds beyond its tensors.
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Loader:
    """How a teacher is brought up."""

    #: (what the recipe says of the teacher, cuts) → the teacher.
    load: Callable[[Teacher, tuple[int, int]], LoadedTeacher]
    #: Whether all ranks load and run it together.
    together: bool


def load_whole(spec: Teacher, cuts: tuple[int, int]) -> LoadedTeacher:
    """Load the teacher that a recipe names onto this process's device, in its dtype."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, resolve_dtype(spec.dtype))
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(open_model(spec.model).path, dtype=dtype)
    return whole_teacher(model.to(device), cuts)


def whole_teacher(model: PreTrainedModel, cuts: tuple[int, int]) -> LoadedTeacher:
    """Wrap a model that is whole on its device."""
    model.eval().requires_grad_(False)
    family = family_of(model.config)
    return LoadedTeacher(
        model=model,
        family=family,
        run=lambda batch, whole: capture(model, family, cuts, batch, whole=whole),
        head=family.head(model),
        tail=lambda: family.tail_state(model, *cuts),
        device=model.device,
    )


#: Each process has the whole teacher on its own device.
WHOLE = Loader(load_whole, together=False)
