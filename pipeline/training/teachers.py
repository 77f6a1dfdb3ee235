"""The teacher's side of an objective: replayed from a cache, or run beside the student at every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from transformers import PreTrainedModel

from pipeline.families import Attention, Shape, family_of
from pipeline.families.base import Head
from pipeline.families.recorder import QKV, BlockInput, Recorder
from pipeline.planning.flops import forward_flops
from pipeline.recipe import States
from pipeline.teacher.loaded import LoadedTeacher
from pipeline.teacher.states import restore
from pipeline.teacher.tail import Tail
from pipeline.training.loader import Batch


@dataclass
class Reference:
    """What a batch looks like to the teacher. Shapes as in `teacher.tail.Replayed`."""

    encoder_output: torch.Tensor
    decoder_output: torch.Tensor
    head: Head
    projections: dict[Attention, QKV]
    inputs: dict[BlockInput, torch.Tensor]


class Teacher(Protocol):
    @property
    def shape(self) -> Shape:
        """Its shape; the layers are those that can be looked at."""
        ...

    @property
    def attention_scale(self) -> float: ...

    def position_bias(
        self, attention: Attention, rows: int, columns: int
    ) -> torch.Tensor | None: ...

    def reference(self, batch: Batch) -> Reference: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Yield the weights it holds: those of the tail, or of the whole teacher."""
        ...

    def cost(self, input_length: int, target_length: int, logits: bool) -> float:
        """Operations of `reference` on one example, with its logits where the objective takes them."""
        ...

    def close(self) -> None:
        """Free what it holds beyond its tensors."""
        ...


class CachedTeacher:
    """Replays the tail of a cache; reads attention_mask and the cached states from the batch."""

    def __init__(self, tail: Tail, settings: States, *, replays_encoder: bool = True) -> None:
        """settings: how the cache stores states; replays_encoder: whether the batch holds no encoder output."""
        self._tail, self._settings, self._replays_encoder = tail, settings, replays_encoder

    @property
    def shape(self) -> Shape:
        return self._tail.shape

    @property
    def attention_scale(self) -> float:
        return self._tail.family.attention_scale(self._tail.model.config)

    def position_bias(self, attention: Attention, rows: int, columns: int) -> torch.Tensor | None:
        block = self._tail.blocks[attention]
        return self._tail.family.position_bias(self._tail.model, attention, block, rows, columns)

    def reference(self, batch: Batch) -> Reference:
        dtype, settings = self._tail.model.dtype, self._settings
        decoder_states = restore("decoder_states", batch, settings, dtype)
        assert decoder_states is not None
        replayed = self._tail.replay(
            decoder_states,
            batch["attention_mask"],
            encoder_states=restore("encoder_states", batch, settings, dtype),
            encoder_output=restore("encoder_output", batch, settings, dtype),
        )
        return Reference(
            replayed.encoder_output,
            replayed.decoder_output,
            self._tail.head,
            replayed.projections,
            replayed.inputs,
        )

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return self._tail.model.parameters()

    def cost(self, input_length: int, target_length: int, logits: bool) -> float:
        return _forward_cost(
            self._tail.model, self._replays_encoder, input_length, target_length, logits
        )

    def close(self) -> None:
        pass


class OnlineTeacher:
    """Runs a whole teacher on the batch: no cache, at the price of its forward pass at every step."""

    def __init__(
        self,
        teacher: LoadedTeacher,
        blocks: Mapping[Attention, int],
        inputs: Iterable[BlockInput] = (),
    ) -> None:
        """blocks, inputs: what is recorded; negative indices count from the end."""
        self._teacher, self._blocks = teacher, dict(blocks)
        self._recorder = Recorder(teacher.model, teacher.family, blocks, inputs)

    @property
    def shape(self) -> Shape:
        return self._teacher.family.shape(self._teacher.model.config)

    @property
    def attention_scale(self) -> float:
        return self._teacher.family.attention_scale(self._teacher.model.config)

    def position_bias(self, attention: Attention, rows: int, columns: int) -> torch.Tensor | None:
        block = self._blocks[attention]
        return self._teacher.family.position_bias(
            self._teacher.model, attention, block, rows, columns
        )

    @torch.no_grad()
    def reference(self, batch: Batch) -> Reference:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        with self._recorder as recorder:
            captured = self._teacher.run(inputs, True)
        assert captured.decoder_output is not None
        return Reference(
            captured.encoder_output,
            captured.decoder_output,
            self._teacher.head,
            recorder.projections,
            recorder.inputs,
        )

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return self._teacher.model.parameters()

    def cost(self, input_length: int, target_length: int, logits: bool) -> float:
        return _forward_cost(self._teacher.model, True, input_length, target_length, logits)

    def close(self) -> None:
        self._teacher.close()


def _forward_cost(
    model: PreTrainedModel, runs_encoder: bool, input_length: int, target_length: int, logits: bool
) -> float:
    family = family_of(model.config)
    vocabulary, gated = family.head_size(model.config), family.gated(model.config)
    shape = family.shape(model.config)
    if not runs_encoder:
        shape = replace(shape, encoder_layers=0)
    return forward_flops(
        shape, input_length, target_length, vocab_size=vocabulary, gated=gated, logits=logits
    ).total
