"""Does replay equal the teacher? Checked on a sample of every shard, and kept in its sidecar."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pipeline.families import Attention, Family
from pipeline.families.recorder import Recorder
from pipeline.teacher.tail import Tail


@torch.inference_mode()
def replay_error(
    teacher: PreTrainedModel,
    family: Family,
    tail: Tail,
    cuts: tuple[int, int],
    batch: dict[str, torch.Tensor],
    encoder_states: torch.Tensor,
    decoder_states: torch.Tensor,
) -> dict[str, float]:
    """Largest absolute difference of replayed q/k/v and logits from the live teacher's, relative to the largest value.

    batch: input_ids, attention_mask, labels. Returns one number per attention and one for the logits; 0.0 is bit for bit.
    """
    blocks: dict[Attention, int] = {"encoder_self": cuts[0], "decoder_self": cuts[1], "cross": cuts[1]}
    recorder = Recorder(teacher, family, blocks)
    with recorder:
        live = teacher(**batch, use_cache=False)
    recorder.close()
    replayed = tail.replay(decoder_states, batch["attention_mask"], encoder_states=encoder_states)
    errors = {"logits": _relative(tail.head.logits(replayed.decoder_output), live.logits)}
    for attention, parts in recorder.projections.items():
        errors[attention] = max(_relative(replayed.projections[attention][part], parts[part]) for part in parts)
    return errors


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    scale = expected.abs().max().clamp_min(1e-30)
    return float(((found - expected).abs().max() / scale).item())
