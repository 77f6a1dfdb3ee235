"""The cut: run a teacher up to a block of each stack and take the hidden states that enter it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Family
from pipeline.families.base import Stack


class _DecoderCutReached(Exception):
    """Leaves the teacher's forward: what comes after the decoder's cut (blocks, LM head) is not needed to cache states."""


def resolve_cut(cut: int, layers: int, name: str) -> int:
    """Turn a cut (negative counts from the end) into a block index; raises ConfigError when there is no such block."""
    if not -layers <= cut < layers:
        raise ConfigError(f"cache.{name} {cut}: the teacher's stack has blocks 0 to {layers - 1}")
    return cut % layers


@torch.inference_mode()
def capture_states(
    teacher: PreTrainedModel,
    family: Family,
    cuts: tuple[int, int],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden states entering encoder block cuts[0] and decoder block cuts[1].

    input_ids, attention_mask: (batch, L_in); labels: (batch, L_out), -100 where ignored. Returns (batch, L_in, d_model) and
    (batch, L_out, d_model) in the teacher's dtype.
    """
    states: dict[str, torch.Tensor] = {}

    def keep(stack: str, leave: bool) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states[stack] = args[0] if args else kwargs["hidden_states"]
            if leave:
                raise _DecoderCutReached

        return hook

    stacks: tuple[tuple[Stack, int], ...] = (("encoder", cuts[0]), ("decoder", cuts[1]))
    handles = [
        family.blocks(teacher, stack)[cut].register_forward_pre_hook(keep(stack, stack == "decoder"), with_kwargs=True)
        for stack, cut in stacks
    ]
    try:
        teacher(input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=False)
    except _DecoderCutReached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return states["encoder"], states["decoder"]
