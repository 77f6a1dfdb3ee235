"""The cut: run a teacher and record the hidden states that enter one block of each stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.families import Family
from pipeline.families.base import Stack
from pipeline.families.stacks import decode, encode


class _DecoderCutReached(Exception):
    """Ends the teacher's forward pass early when nothing after the decoder's cut is cached."""


@dataclass
class Captured:
    """Hidden states of one forward pass of the teacher, in its dtype and on its device."""

    #: (batch, L_in, d_model), entering encoder block cuts[0].
    encoder_states: torch.Tensor
    #: (batch, L_out, d_model), entering decoder block cuts[1].
    decoder_states: torch.Tensor
    #: (batch, L_in, d_model), after the final norm.
    encoder_output: torch.Tensor
    #: (batch, L_out, d_model), after the final norm; None when the pass ended at the cut.
    decoder_output: torch.Tensor | None


@torch.no_grad()
def capture(
    teacher: PreTrainedModel,
    family: Family,
    cuts: tuple[int, int],
    batch: dict[str, torch.Tensor],
    *,
    whole: bool = False,
) -> Captured:
    """Run the teacher on a batch to its decoder's cut, without the LM head.

    batch: input_ids, attention_mask (batch, L_in) and labels (batch, L_out), -100 where ignored.
    whole: run to the end of the decoder instead.
    """
    states: dict[str, torch.Tensor] = {}

    def record(stack: str, stop: bool) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states[stack] = args[0] if args else kwargs["hidden_states"]
            if stop:
                raise _DecoderCutReached

        return hook

    stacks: tuple[tuple[Stack, int], ...] = (("encoder", cuts[0]), ("decoder", cuts[1]))
    handles = [
        family.blocks(teacher, stack)[cut].register_forward_pre_hook(
            record(stack, stack == "decoder" and not whole), with_kwargs=True
        )
        for stack, cut in stacks
    ]
    mask, decoder_output = batch["attention_mask"], None
    model: Any = teacher
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    try:
        encoder_output = encode(teacher, mask, input_ids=batch["input_ids"])
        decoder_output = decode(teacher, encoder_output, mask, decoder_input_ids=decoder_input_ids)
    except _DecoderCutReached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return Captured(states["encoder"], states["decoder"], encoder_output, decoder_output)
