"""Recording what passes inside a model, with hooks where it is made: SDPA and flash attention stay on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from pipeline.families.base import Attention, Family, Stack

#: Outputs of the projections of one attention, each (batch, length, heads × head_dim), by "q", "k", "v".
QKV = dict[str, torch.Tensor]


class BlockInput(NamedTuple):
    """The hidden states that enter a block; a negative index counts from the end."""

    stack: Stack
    block: int


class Recorder:
    """Record projections and block inputs while `with recorder:` holds, attached to the graph when gradients are on.

    blocks: which block of its stack each attention is recorded at; negative counts from the end. inputs: block inputs to keep.
    The hooks stand only that long. Put on for each pass they run after DeepSpeed's, whose outputs carry what gathers
    partitioned weights again in the backward pass; and activation checkpointing, which runs blocks again there, finds none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        blocks: Mapping[Attention, int],
        inputs: Iterable[BlockInput] = (),
    ) -> None:
        self.projections: dict[Attention, QKV] = {}
        self.inputs: dict[BlockInput, torch.Tensor] = {}
        self._model, self._family = model, family
        self._blocks, self._places = dict(blocks), list(inputs)
        self._handles: list[Any] = []

    def __enter__(self) -> Recorder:
        """Forget what was recorded, and record from here on."""
        self.projections, self.inputs = {}, {}
        for attention, block in self._blocks.items():
            projections = self._family.projections(self._model, attention, block)
            for part in ("q", "k", "v"):
                self._handles.append(
                    getattr(projections, part).register_forward_hook(self._keep(attention, part))
                )
        for place in self._places:
            module = self._family.blocks(self._model, place.stack)[place.block]
            self._handles.append(
                module.register_forward_pre_hook(self._keep_input(place), with_kwargs=True)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _keep(self, attention: Attention, part: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self.projections.setdefault(attention, {})[part] = output

        return hook

    def _keep_input(self, place: BlockInput) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.inputs[place] = args[0] if args else kwargs["hidden_states"]

        return hook
