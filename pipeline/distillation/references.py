"""The teacher's outputs in an objective: replayed from a cache, or computed at every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.families import Attention, Shape
from pipeline.families.base import Head
from pipeline.families.recorder import QKV, BlockInput, Recorder
from pipeline.models.architecture import Architecture
from pipeline.recipe import States
from pipeline.teacher.loaded import Teacher
from pipeline.teacher.states import restore
from pipeline.teacher.tail import Tail
from pipeline.training.loader import Batch


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for one batch that an objective compares."""

    #: (batch, L_in, d_model), after the final norm.
    encoder: torch.Tensor
    #: (batch, L_out, d_model), after the final norm.
    decoder: torch.Tensor
    #: q, k and v of the attentions that are compared.
    projections: Mapping[Attention, QKV]
    #: The states entering the blocks that are compared.
    inputs: Mapping[BlockInput, torch.Tensor]


@dataclass(frozen=True)
class Reference(Outputs):
    """A teacher's outputs for one batch; its head turns `decoder` into logits."""

    head: Head


class ReferenceTeacher(Protocol):
    """A teacher that returns its `Reference` for each batch."""

    @property
    def shape(self) -> Shape:
        """Return its shape; the layers are those that can be compared."""
        ...

    @property
    def attention_scale(self) -> float: ...

    def position_bias(
        self, attention: Attention, rows: int, columns: int
    ) -> torch.Tensor | None: ...

    def reference(self, batch: Batch) -> Reference: ...

    def flops(self, source: int, target: int, logits: bool) -> float:
        """Return the operations of `reference` on one example. logits: whether its head runs."""
        ...

    def parameters(self) -> Iterator[torch.Tensor]:
        """Yield every weight it holds."""
        ...

    def close(self) -> None:
        """Release everything it holds except its tensors."""
        ...


class CachedTeacher:
    """Replays the tail of a cache; reads attention_mask and the cached states from the batch."""

    def __init__(self, tail: Tail, settings: States, *, replays_encoder: bool = True) -> None:
        """Hold the tail.

        settings: how the cache stores states.
        replays_encoder: False if the batch holds the encoder's output.
        """
        self._tail, self._settings, self._replays_encoder = tail, settings, replays_encoder
        self._architecture = Architecture.of(tail.model.config)

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
            replayed.projections,
            replayed.inputs,
            self._tail.head,
        )

    def flops(self, source: int, target: int, logits: bool) -> float:
        first = 0 if self._replays_encoder else self.shape.encoder_layers
        return self._architecture.tail_flops((first, 0), source, target, logits=logits).total

    def parameters(self) -> Iterator[torch.Tensor]:
        return self._tail.model.parameters()

    def close(self) -> None:
        pass


class OnlineTeacher:
    """Runs a whole teacher on the batch: no cache, but a forward pass at every step."""

    def __init__(
        self,
        teacher: Teacher,
        blocks: Mapping[Attention, int],
        inputs: Iterable[BlockInput] = (),
    ) -> None:
        """Prepare the recording. blocks, inputs: what to record; negative indices: from the end."""
        self._teacher, self._blocks = teacher, dict(blocks)
        self._recorder = Recorder(teacher.model, teacher.family, blocks, inputs)
        self._architecture = Architecture.of(teacher.model.config)

    @property
    def shape(self) -> Shape:
        return self._architecture.shape

    @property
    def attention_scale(self) -> float:
        return self._teacher.family.attention_scale(self._teacher.model.config)

    def position_bias(self, attention: Attention, rows: int, columns: int) -> torch.Tensor | None:
        block, model = self._blocks[attention], self._teacher.model
        return self._teacher.family.position_bias(model, attention, block, rows, columns)

    @torch.no_grad()
    def reference(self, batch: Batch) -> Reference:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        with self._recorder as recorder:
            captured = self._teacher.run(inputs, True)
        assert captured.decoder_output is not None
        return Reference(
            captured.encoder_output,
            captured.decoder_output,
            recorder.projections,
            recorder.inputs,
            self._teacher.head,
        )

    def flops(self, source: int, target: int, logits: bool) -> float:
        return self._architecture.forward_flops(source, target, logits=logits).total

    def parameters(self) -> Iterator[torch.Tensor]:
        return self._teacher.model.parameters()

    def close(self) -> None:
        self._teacher.close()
