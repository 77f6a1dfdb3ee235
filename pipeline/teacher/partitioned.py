"""A teacher too large for one device, partitioned over the ranks.

Its weights are gathered where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline import ranks
from pipeline.families import Family
from pipeline.families.base import Head
from pipeline.models import ModelDirectory
from pipeline.teacher.capture import Captured, capture
from pipeline.teacher.loaded import TailState
from pipeline.training.inference import (
    inference_config,
    inference_engine,
    load_partitioned,
    whole_weight,
)

if TYPE_CHECKING:
    from pipeline.training.loader import Batch


class PartitionedTeacher:
    """A teacher under ZeRO-3 inference.

    Every rank creates it, and all make their forward passes together.
    """

    def __init__(
        self, directory: ModelDirectory, dtype: str, cuts: tuple[int, int], deepspeed: str
    ) -> None:
        """Load the model. deepspeed: a JSON such as ds_configs/zero3_inference.json."""
        config = inference_config(deepspeed, dtype)
        self.model = load_partitioned(directory, dtype, config)
        self.family = directory.architecture.family
        self.device = ranks.device()
        self._cuts = cuts
        self._engine = inference_engine(_Capture(self.model, self.family, cuts), config)
        head = self.family.head(self.model)
        self.head = Head(whole_weight(head.weight), head.scale, head.bias)

    def run(self, batch: Batch, whole: bool) -> Captured:
        return self._engine(batch)

    def tail_state(self) -> TailState:
        config, names = self.family.tail_names(self.model.config, *self._cuts)
        weights = dict(self.model.named_parameters(remove_duplicate=False))
        tensors = weights | dict(self.model.named_buffers())
        return config, {name: whole_weight(tensors[source]) for name, source in names.items()}

    def most_passes(self, needed: int) -> int:
        return ranks.largest(needed)

    def close(self) -> None:
        self._engine.destroy()


class _Capture(nn.Module):
    """A forward pass that captures, as the root module that DeepSpeed hooks into."""

    def __init__(self, model: PreTrainedModel, family: Family, cuts: tuple[int, int]) -> None:
        super().__init__()
        self.model, self._family, self._cuts = model, family, cuts

    def forward(self, batch: dict[str, torch.Tensor]) -> Captured:
        # Always to the end (see `inference_engine`).
        return capture(self.model, self._family, self._cuts, batch, whole=True)
