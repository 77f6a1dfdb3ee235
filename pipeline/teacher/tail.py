"""The tail and its replay: from cached states to everything the teacher computes after the cut, exactly."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

from pipeline.artifacts.atomic import publish_directory, temporary_name
from pipeline.families import Attention, family_of
from pipeline.families.recorder import QKV, ProjectionRecorder

TAIL_FILES = ("tail/config.json", "tail/model.safetensors")


@dataclass
class Replayed:
    #: (batch, L_out, vocabulary)
    logits: torch.Tensor
    #: (batch, L_in, d_model), after the final norm.
    encoder_output: torch.Tensor
    #: q, k, v of the three attentions at the cut.
    projections: dict[Attention, QKV]


class Tail:
    """The blocks after the cut, the final norms and the head of a teacher.

    Replaying states captured in the same batch shape gives bit for bit what the teacher gave; other batch shapes differ by
    rounding. Costs (blocks after the cut ÷ all blocks) of a teacher's forward.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.family = family_of(model.config)
        self._recorder = ProjectionRecorder(model, self.family, {"encoder_self": 0, "decoder_self": 0, "cross": 0})

    @torch.no_grad()
    def replay(
        self, encoder_states: torch.Tensor, decoder_states: torch.Tensor, attention_mask: torch.Tensor
    ) -> Replayed:
        """encoder_states: (batch, L_in, d_model); decoder_states: (batch, L_out, d_model); attention_mask: (batch, L_in)."""
        output = self.model(
            inputs_embeds=encoder_states,
            attention_mask=attention_mask,
            decoder_inputs_embeds=decoder_states,
            use_cache=False,
        )
        return Replayed(output.logits, output.encoder_last_hidden_state, dict(self._recorder.recorded))


def cut_tail(teacher: PreTrainedModel, cuts: tuple[int, int]) -> Tail:
    family = family_of(teacher.config)
    return Tail(family.build_tail(*family.tail_state(teacher, *cuts)))


def save_tail(teacher: PreTrainedModel, cuts: tuple[int, int], directory: Path) -> None:
    """Write the tail to `directory` (config.json and model.safetensors), atomically."""
    config, state = family_of(teacher.config).tail_state(teacher, *cuts)
    temporary = temporary_name(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config.save_pretrained(temporary)
    save_file({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, temporary / "model.safetensors")
    shutil.rmtree(directory, ignore_errors=True)
    publish_directory(temporary, directory)


def load_tail(directory: Path, device: torch.device) -> Tail:
    """Read the tail of a cache artifact (the directory `tail/`)."""
    config = AutoConfig.from_pretrained(directory)
    state = load_file(directory / "model.safetensors", device=str(device))
    return Tail(family_of(config).build_tail(config, state))
