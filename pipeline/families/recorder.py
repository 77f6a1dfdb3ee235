"""Recording q, k and v where they are made: forward hooks on the projections, so SDPA and flash attention stay on."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.families.base import Attention, Family

#: Outputs of the projections of one attention, each (batch, length, heads × head_dim), by "q", "k", "v".
QKV = dict[str, torch.Tensor]


class ProjectionRecorder:
    """Record the projections of chosen attentions during the next forward of `model`.

    blocks: which block of its stack each attention is recorded at; negative counts from the end. `recorded` holds the newest
    forward's outputs, attached to the graph when gradients are on.
    """

    def __init__(self, model: PreTrainedModel, family: Family, blocks: dict[Attention, int]) -> None:
        self.recorded: dict[Attention, QKV] = {}
        self._handles = []
        for attention, block in blocks.items():
            projections = family.projections(model, attention, block)
            for part in ("q", "k", "v"):
                self._handles.append(getattr(projections, part).register_forward_hook(self._keep(attention, part)))

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _keep(self, attention: Attention, part: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self.recorded.setdefault(attention, {})[part] = output

        return hook

    def __enter__(self) -> ProjectionRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
