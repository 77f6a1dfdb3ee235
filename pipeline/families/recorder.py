"""Hooks that record projections and block inputs where they are made.

Attention keeps its fast kernels (SDPA, flash attention).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.families.base import Attention, Family, Stack

#: Outputs of the projections of one attention by "q", "k", "v"; (batch, length, heads × head_dim).
QKV = dict[str, torch.Tensor]


class BlockInput(NamedTuple):
    """The hidden states that enter a block; a negative index counts from the end."""

    stack: Stack
    block: int


class Recorder:
    """Record projections and block inputs inside `with recorder:`.

    They stay attached to the graph when gradients are on. The hooks exist inside the `with` alone,
    for two reasons. Added for each pass, they run after DeepSpeed's hooks, whose outputs carry what
    gathers partitioned weights again in the backward pass. And activation checkpointing, which runs
    blocks again there, finds none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        blocks: Mapping[Attention, int],
        inputs: Iterable[BlockInput] = (),
    ) -> None:
        """blocks: the block of its stack that each attention is recorded at.

        A negative index counts from the end. inputs: the block inputs to record.
        """
        self.projections: dict[Attention, QKV] = {}
        self.inputs: dict[BlockInput, torch.Tensor] = {}
        self._model, self._family = model, family
        self._blocks, self._inputs_to_record = dict(blocks), list(inputs)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Recorder:
        """Forget earlier records and start recording."""
        self.projections, self.inputs = {}, {}
        for attention, block in self._blocks.items():
            projections = self._family.projections(self._model, attention, block)
            for part in ("q", "k", "v"):
                self._handles.append(
                    getattr(projections, part).register_forward_hook(self._keep(attention, part))
                )
        for entry in self._inputs_to_record:
            module = self._family.blocks(self._model, entry.stack)[entry.block]
            self._handles.append(
                module.register_forward_pre_hook(self._keep_input(entry), with_kwargs=True)
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

    def _keep(self, attention: Attention, part: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self.projections.setdefault(attention, {})[part] = output

        return hook

    def _keep_input(self, entry: BlockInput) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.inputs[entry] = args[0] if args else kwargs["hidden_states"]

        return hook
