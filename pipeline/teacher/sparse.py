"""Sparse targets of a batch: from the decoder's output to columns, and back for the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.artifacts.shard import Rows
from pipeline.families.base import Head
from pipeline.recipe import Cache, Sampled
from pipeline.teacher.codec import count_draws, decode, encode, pad_targets
from pipeline.teacher.sampling import sample_targets, uniforms
from pipeline.teacher.topk import TopK, top_k_probabilities, top_k_targets

SAMPLED = "sampled"
TOPK = ("topk_ids", "topk_log_probs", "topk_log_tail")
#: Replaces the log of a mass that rounds to zero, so that nothing is multiplied by infinity later.
_LOG_ZERO = -100.0


@torch.inference_mode()
def sampled_column(
    decoder_output: torch.Tensor,
    head: Head,
    scored: torch.Tensor,
    settings: Sampled,
    *,
    seed: int,
    shard: int,
    first_row: int,
) -> list[bytes]:
    """Draw from the teacher's distribution at the scored positions; return encoded bytes per row.

    decoder_output: (rows, L_out, d_model). scored: (rows, L_out) bool. Logits exist for one row at
    a time. The draws depend only on the logits and on (seed, shard, row).
    """
    coded = []
    for index, (hidden, valid) in enumerate(zip(decoder_output, scored, strict=True)):
        logits, row = head.logits(hidden[valid]), first_row + index
        u = uniforms(seed, shard, row, len(logits), settings.draws, settings.method)
        samples = sample_targets(logits, u, settings.temperature)
        coded.append(encode(count_draws(samples), settings.draws))
    return coded


@torch.inference_mode()
def topk_columns(
    decoder_output: torch.Tensor, head: Head, scored: torch.Tensor, k: int, vocab_size: int
) -> dict[str, torch.Tensor]:
    """Return ids, log-probabilities and log tails of the k most probable tokens.

    ids: (rows, L_out, k) uint16 or uint32. Log-probabilities: float16 of that shape. Log tails:
    (rows, L_out) float32. All are zero where a position is not scored.
    """
    rows, length = scored.shape
    ids = torch.zeros(rows, length, k, dtype=torch.int64)
    log_probs = torch.zeros(rows, length, k, dtype=torch.float16)
    log_tail = torch.zeros(rows, length, dtype=torch.float32)
    for index, (hidden, valid) in enumerate(zip(decoder_output, scored, strict=True)):
        targets = top_k_targets(head.logits(hidden[valid]), k)
        positions = valid.cpu()
        ids[index, positions] = targets.ids.cpu().to(torch.int64)
        log_probs[index, positions] = targets.log_probs.cpu()
        log_tail[index, positions] = targets.log_tail.cpu()
    small = torch.uint16 if vocab_size <= 1 << 16 else torch.uint32
    return dict(zip(TOPK, (ids.to(small), log_probs, log_tail), strict=True))


def read_sampled(
    rows: Sequence[bytes], scored: torch.Tensor, draws: int, vocab_size: int
) -> dict[str, torch.Tensor]:
    """Decode rows into sampled_ids and sampled_counts.

    sampled_ids: (rows, L_out, widest) int64. sampled_counts: float32 of that shape, 0 where unused.
    Raises CorruptArtifact when the bytes are damaged or were not made for these labels.
    """
    positions = scored.sum(1).tolist()
    targets = [
        decode(data, draws=draws, positions=count, vocab_size=vocab_size)
        for data, count in zip(rows, positions, strict=True)
    ]
    ids, counts = pad_targets(targets, scored)
    return {"sampled_ids": ids, "sampled_counts": counts}


def read_topk(columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn stored columns (ids already int64) into the targets of the losses.

    They are topk_ids, topk_log_probabilities and topk_log_tail; the logarithms are float32.
    """
    stored = TopK(*(columns[name] for name in TOPK))
    ids, probabilities = top_k_probabilities(stored)
    return {
        "topk_ids": ids,
        "topk_log_probabilities": probabilities.log().clamp_(min=_LOG_ZERO),
        "topk_log_tail": stored.log_tail.clamp(min=_LOG_ZERO),
    }


def sampled_digest(ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return one integer per position, (rows, L_out) int64, computed from its ids and counts."""
    return (ids * counts.to(torch.int64)).sum(-1)


def topk_digest(columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return one integer per position of stored top-k columns, with ids as int64.

    It includes the log-probabilities: a barely trained teacher gives all positions the same ids.
    """
    ids, log_probs = columns["topk_ids"], columns["topk_log_probs"]
    ranks = torch.arange(1, ids.shape[-1] + 1)
    return (ids * ranks).sum(-1) + log_probs.contiguous().view(torch.int16).to(torch.int64).sum(-1)


def label_digest(digest: torch.Tensor, labels: torch.Tensor) -> int:
    """Return a number that binds targets to the labels of their positions.

    A shift between targets and labels almost certainly changes it. digest: (rows, L_out) int64.
    labels: (rows, L_out), -100 where not scored.
    """
    return int((digest % 65_521 * labels)[labels != -100].sum())


def sparse_notes(
    cache: Cache, columns: dict[str, Rows], labels: torch.Tensor, vocab_size: int
) -> dict[str, Any]:
    """Return notes on a sample's sparse targets, computed from the stored columns.

    labels: (rows, L_out), -100 where not scored.
    """
    notes: dict[str, Any] = {}
    scored = labels != -100
    positions = max(int(scored.sum()), 1)
    if SAMPLED in columns:
        coded = columns[SAMPLED]
        assert not isinstance(coded, torch.Tensor)
        targets = read_sampled(coded, scored, cache.sampled.draws, vocab_size)
        used = targets["sampled_counts"] > 0
        digest = sampled_digest(targets["sampled_ids"], targets["sampled_counts"])
        notes["sampled"] = {
            "tie": label_digest(digest, labels),
            "unique_ids": int(used.sum()) / positions,
            "bytes_per_position": sum(map(len, coded)) / positions,
        }
    if TOPK[0] in columns:
        stored = {name: torch.as_tensor(columns[name]).cpu() for name in TOPK}
        stored["topk_ids"] = stored["topk_ids"].to(torch.int64)
        notes["topk"] = {
            "tie": label_digest(topk_digest(stored), labels),
            "tail_mass": float(stored["topk_log_tail"][scored].exp().mean()),
        }
    return notes
