"""The tail and its replay: an exact copy of what the teacher computes after the cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel

from pipeline.artifacts import Artifact
from pipeline.families import Attention, Shape, family_of
from pipeline.families.base import Head
from pipeline.families.recorder import QKV, BlockInput, Recorder
from pipeline.families.stacks import decode, encode
from pipeline.models.architecture import Architecture
from pipeline.models.writing import write_tail

TAIL_FILES = ("tail/config.json", "tail/model.safetensors")
#: Each attention at the block of the cut, which is the first of the tail.
AT_THE_CUT: dict[Attention, int] = {"encoder_self": 0, "decoder_self": 0, "cross": 0}


@dataclass
class Replayed:
    """The result of a replay."""

    #: (batch, L_in, d_model), after the final norm.
    encoder_output: torch.Tensor
    #: (batch, L_out, d_model), after the final norm; `Tail.head` turns it into logits.
    decoder_output: torch.Tensor
    #: q, k, v of the recorded attentions.
    projections: dict[Attention, QKV]
    #: The states that enter the recorded blocks.
    inputs: dict[BlockInput, torch.Tensor]


class Tail:
    """The blocks after the cut, the final norms and the head of a teacher.

    A replay of states captured in the same batch shape equals the teacher's result bit for bit.
    Other batch shapes differ by rounding. A replay costs (blocks after the cut ÷ all blocks) of a
    teacher's forward pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: Mapping[Attention, int] = AT_THE_CUT,
        inputs: Iterable[BlockInput] = (),
    ) -> None:
        """Prepare the recording of a replay.

        blocks, inputs: what it records, as block indices of the tail (negative: from the end).
        """
        self.model = model
        self.family = family_of(model.config)
        self.blocks = dict(blocks)
        self._recorder = Recorder(model, self.family, blocks, inputs)

    @property
    def shape(self) -> Shape:
        """Return the shape of the tail: its layers are those from the cut on."""
        return self.family.shape(self.model.config)

    @property
    def head(self) -> Head:
        return self.family.head(self.model)

    @torch.no_grad()
    def replay(
        self,
        decoder_states: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        encoder_states: torch.Tensor | None = None,
        encoder_output: torch.Tensor | None = None,
    ) -> Replayed:
        """Run the tail.

        decoder_states: (batch, L_out, d_model).
        attention_mask: (batch, L_in).
        encoder_states: (batch, L_in, d_model).
        encoder_output: the cached output of that shape, instead of encoder_states. Nothing of the
            encoder's blocks can be recorded then.
        """
        with self._recorder as recorder:
            if encoder_output is None:
                encoder_output = encode(self.model, attention_mask, inputs_embeds=encoder_states)
            decoder_output = decode(
                self.model, encoder_output, attention_mask, decoder_inputs_embeds=decoder_states
            )
        return Replayed(encoder_output, decoder_output, recorder.projections, recorder.inputs)


def cut_tail(teacher: PreTrainedModel, cuts: tuple[int, int]) -> Tail:
    """Return the tail of a teacher, which shares its weights."""
    family = family_of(teacher.config)
    return Tail(family.build_tail(*family.tail_state(teacher, *cuts)))


def save_tail(teacher: PreTrainedModel, cuts: tuple[int, int], directory: Path) -> None:
    """Write the tail of a teacher to `directory`."""
    write_tail(*family_of(teacher.config).tail_state(teacher, *cuts), directory)


def load_tail(
    directory: Path,
    device: torch.device,
    blocks: Mapping[Attention, int] = AT_THE_CUT,
    inputs: Iterable[BlockInput] = (),
) -> Tail:
    """Read the tail of a cache artifact (the directory `tail/`)."""
    config = AutoConfig.from_pretrained(directory)
    state = load_file(directory / "model.safetensors", device=str(device))
    return Tail(family_of(config).build_tail(config, state), blocks, inputs)


def tail_architecture(cache: Artifact) -> Architecture:
    """Return the architecture of a cache's tail: its layers are those from the cut on."""
    return Architecture.of(AutoConfig.from_pretrained(cache.root / "tail"))
