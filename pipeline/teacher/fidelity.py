"""Fidelity of cached states to the teacher, measured on a sample of each shard.

The result is stored in the shard's sidecar.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax

from pipeline.families import Attention
from pipeline.families.base import Head
from pipeline.families.recorder import Recorder
from pipeline.teacher.loaded import Teacher
from pipeline.teacher.tail import Tail

#: The number of rows of a shard whose labels' log-probabilities are stored in its sidecar.
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

    batch: input_ids, attention_mask, labels. The result has three entries.

    "replay_error": for the logits and the q/k/v of each attention, the largest ("max") and mean
    ("mean") absolute difference, relative to the largest value. 0.0 means equal bit for bit.
    "replay_kl": the mean KL(live ‖ replayed) per scored position, in nats.
    "label_log_probs": the result of `label_log_probs` for the first rows, rounded.
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
        errors[attention] = _summary(
            [_relative(replayed.projections[attention][part], parts[part]) for part in parts]
        )
    assert live.decoder_output is not None
    labels, logits_errors, kl = batch["labels"], [], 0.0
    # One row at a time: the logits of a batch may be the largest tensor of all.
    for replayed_row, live_row, row_labels in zip(
        replayed.decoder_output, live.decoder_output, labels, strict=True
    ):
        valid = row_labels != -100
        q, p = tail.head.logits(replayed_row[valid]), teacher.head.logits(live_row[valid])
        logits_errors.append(_relative(q, p))
        log_p, log_q = log_softmax(p.float(), -1), log_softmax(q.float(), -1)
        kl += float(kl_div(log_q, log_p, reduction="sum", log_target=True))
    errors["logits"] = _summary(logits_errors)
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
    """Return the log-probability of each scored label in nats.

    There is one float32 tensor (scored positions,) per row. decoder_output: (rows, L_out, d_model).
    labels: (rows, L_out), -100 where not scored. States that belong to other labels, or to other
    positions, give other values.
    """
    log_probs = []
    for hidden, row in zip(decoder_output, labels, strict=True):
        valid = row != -100
        log_p = head.logits(hidden[valid]).float().log_softmax(-1)
        log_probs.append(log_p.gather(1, row[valid].unsqueeze(1)).squeeze(1))
    return log_probs


def _relative(actual: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    scale = expected.abs().max().float().clamp_min(1e-30)
    difference = (actual - expected).abs().float()
    return {"max": float(difference.max() / scale), "mean": float(difference.mean() / scale)}


def _summary(errors: list[dict[str, float]]) -> dict[str, float]:
    """Return the largest of the maxima and the mean of the means."""
    return {
        "max": max(error["max"] for error in errors),
        "mean": sum(error["mean"] for error in errors) / len(errors),
    }
