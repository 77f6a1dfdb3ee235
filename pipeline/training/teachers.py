"""The teacher's side of an objective: replayed from a cache, or run beside the student at every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.families import Attention, Shape, family_of
from pipeline.families.base import Head
from pipeline.families.recorder import QKV, BlockInput, Recorder
from pipeline.families.stacks import decode, encode
from pipeline.recipe import States
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

    def position_bias(self, attention: Attention, rows: int, columns: int) -> torch.Tensor | None: ...

    def reference(self, batch: Batch, decoder_input_ids: torch.Tensor) -> Reference: ...


class CachedTeacher:
    """Replays the tail of a cache; reads attention_mask and the cached states from the batch."""

    def __init__(self, tail: Tail, settings: States) -> None:
        """settings: how the cache stores states."""
        self._tail, self._settings = tail, settings

    @property
    def shape(self) -> Shape:
        return self._tail.shape

    @property
    def attention_scale(self) -> float:
        return self._tail.family.attention_scale(self._tail.model.config)

    def position_bias(self, attention: Attention, rows: int, columns: int) -> torch.Tensor | None:
        block = self._tail.blocks[attention]
        return self._tail.family.position_bias(self._tail.model, attention, block, rows, columns)

    def reference(self, batch: Batch, decoder_input_ids: torch.Tensor) -> Reference:
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
            replayed.encoder_output, replayed.decoder_output, self._tail.head, replayed.projections, replayed.inputs
        )


class OnlineTeacher:
    """Runs a whole teacher on the batch: no cache, at the price of its forward pass at every step."""

    def __init__(
        self, model: PreTrainedModel, blocks: Mapping[Attention, int], inputs: Iterable[BlockInput] = ()
    ) -> None:
        self._model, self._blocks = model.eval().requires_grad_(False), dict(blocks)
        self._family = family_of(model.config)
        self._recorder = Recorder(model, self._family, blocks, inputs)

    @classmethod
    def load(
        cls,
        directory: Path,
        dtype: torch.dtype,
        device: torch.device,
        blocks: Mapping[Attention, int],
        inputs: Iterable[BlockInput],
    ) -> OnlineTeacher:
        model = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=dtype)
        return cls(model.to(device), blocks, inputs)

    @property
    def shape(self) -> Shape:
        return self._family.shape(self._model.config)

    @property
    def attention_scale(self) -> float:
        return self._family.attention_scale(self._model.config)

    def position_bias(self, attention: Attention, rows: int, columns: int) -> torch.Tensor | None:
        return self._family.position_bias(self._model, attention, self._blocks[attention], rows, columns)

    @torch.no_grad()
    def reference(self, batch: Batch, decoder_input_ids: torch.Tensor) -> Reference:
        mask = batch["attention_mask"]
        with self._recorder as recorder:
            encoder_output = encode(self._model, mask, input_ids=batch["input_ids"])
            decoder_output = decode(self._model, encoder_output, mask, decoder_input_ids=decoder_input_ids)
        head = self._family.head(self._model)
        return Reference(encoder_output, decoder_output, head, recorder.projections, recorder.inputs)
