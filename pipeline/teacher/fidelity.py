"""Does what is cached give back the teacher? Measured on a sample of every shard, and kept in its sidecar."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax

from pipeline.families import Attention
from pipeline.families.base import Head
from pipeline.families.recorder import Recorder
from pipeline.teacher.loaded import Teacher
from pipeline.teacher.tail import Tail

#: Rows of a shard whose labels' log-probabilities are kept in its sidecar.
NOTED_ROWS = 4


@torch.inference_mode()
def replay_fidelity(
    teacher: Teacher,
    tail: Tail,
    cuts: tuple[int, int],
    batch: dict[str, torch.Tensor],
    encoder_states: torch.Tensor,
    decoder_states: torch.Tensor,
) -> dict[str, Any]:
    """Compare a replay of stored states with the live teacher on the same batch.

    batch: input_ids, attention_mask, labels. Returns "replay_error": for the logits and the q/k/v of each attention the largest
    ("max") and mean ("mean") absolute difference, relative to the largest value, 0.0 being bit for bit; "replay_kl": mean
    KL(live ‖ replayed) a scored position, nats; "label_log_probs": what `label_log_probs` says of the first rows, rounded.
    """
    blocks: dict[Attention, int] = {
        "encoder_self": cuts[0],
        "decoder_self": cuts[1],
        "cross": cuts[1],
    }
    with Recorder(teacher.model, teacher.family, blocks) as recorder:
        live = teacher.run(batch, True)
    replayed = tail.replay(decoder_states, batch["attention_mask"], encoder_states=encoder_states)
    errors: dict[str, dict[str, float]] = {}
    for attention, parts in recorder.projections.items():
        found = [_relative(replayed.projections[attention][part], parts[part]) for part in parts]
        errors[attention] = {
            "max": max(e["max"] for e in found),
            "mean": sum(e["mean"] for e in found) / len(found),
        }
    assert live.decoder_output is not None
    labels, logits_errors, kl = batch["labels"], [], 0.0
    # A row at a time: the logits of a whole batch may be the largest tensor of all.
    for ours, theirs, row in zip(replayed.decoder_output, live.decoder_output, labels, strict=True):
        valid = row != -100
        q, p = tail.head.logits(ours[valid]), teacher.head.logits(theirs[valid])
        logits_errors.append(_relative(q, p))
        log_p, log_q = log_softmax(p.float(), -1), log_softmax(q.float(), -1)
        kl += float(kl_div(log_q, log_p, reduction="sum", log_target=True))
    errors["logits"] = {
        "max": max(e["max"] for e in logits_errors),
        "mean": sum(e["mean"] for e in logits_errors) / len(logits_errors),
    }
    return {
        "replay_error": errors,
        "replay_kl": kl / max(int((labels != -100).sum()), 1),
        "label_log_probs": [
            [round(value, 4) for value in row.tolist()]
            for row in label_log_probs(
                tail.head, replayed.decoder_output[:NOTED_ROWS], labels[:NOTED_ROWS]
            )
        ],
    }


@torch.inference_mode()
def label_log_probs(
    head: Head, decoder_output: torch.Tensor, labels: torch.Tensor
) -> list[torch.Tensor]:
    """The log-probability of each scored label, nats: one float32 (scored positions,) a row.

    decoder_output: (rows, L_out, d_model); labels: (rows, L_out), -100 where not scored. States that belong to other labels, or to
    other positions, give others.
    """
    found = []
    for hidden, row in zip(decoder_output, labels, strict=True):
        valid = row != -100
        log_p = head.logits(hidden[valid]).float().log_softmax(-1)
        found.append(log_p.gather(1, row[valid].unsqueeze(1)).squeeze(1))
    return found


def _relative(found: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    scale = expected.abs().max().float().clamp_min(1e-30)
    difference = (found - expected).abs().float()
    return {"max": float(difference.max() / scale), "mean": float(difference.mean() / scale)}
