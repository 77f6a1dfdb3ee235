"""Sparse targets of a batch: from the decoder's output to cache columns, and back to what the losses take."""

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
#: Stands for the log of a mass that rounds to zero; nothing downstream multiplies with infinity.
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
    """Draw from the teacher's distribution at the scored positions of each row; one coded byte string a row.

    decoder_output: (rows, L_out, d_model); scored: (rows, L_out) bool. Logits exist for one row at a time. The draws depend on the
    logits and on (seed, shard, row) alone.
    """
    coded = []
    for index, (hidden, valid) in enumerate(zip(decoder_output, scored, strict=True)):
        logits = head.logits(hidden[valid])
        drawn = uniforms(
            seed, shard, first_row + index, len(logits), settings.draws, settings.method
        )
        coded.append(
            encode(count_draws(sample_targets(logits, drawn, settings.temperature)), settings.draws)
        )
    return coded


@torch.inference_mode()
def topk_columns(
    decoder_output: torch.Tensor, head: Head, scored: torch.Tensor, k: int, vocab_size: int
) -> dict[str, torch.Tensor]:
    """Return ids (rows, L_out, k) uint16 or uint32, log-probabilities float16 of that shape and log tails (rows, L_out) float32.

    Where a position is not scored all are zero.
    """
    rows, length = scored.shape
    ids = torch.zeros(rows, length, k, dtype=torch.int64)
    log_probs = torch.zeros(rows, length, k, dtype=torch.float16)
    log_tail = torch.zeros(rows, length, dtype=torch.float32)
    for index, (hidden, valid) in enumerate(zip(decoder_output, scored, strict=True)):
        found = top_k_targets(head.logits(hidden[valid]), k)
        places = valid.cpu()
        ids[index, places] = found.ids.cpu().to(torch.int64)
        log_probs[index, places] = found.log_probs.cpu()
        log_tail[index, places] = found.log_tail.cpu()
    small = torch.uint16 if vocab_size <= 1 << 16 else torch.uint32
    return dict(zip(TOPK, (ids.to(small), log_probs, log_tail), strict=True))


def read_sampled(
    rows: Sequence[bytes], scored: torch.Tensor, draws: int, vocab_size: int
) -> dict[str, torch.Tensor]:
    """Decode rows into sampled_ids (rows, L_out, widest) int64 and sampled_counts float32 of that shape, 0 where unused.

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
    """Turn stored columns (ids already int64) into topk_ids, topk_log_probabilities and topk_log_tail, float32."""
    stored = TopK(*(columns[name] for name in TOPK))
    ids, probabilities = top_k_probabilities(stored)
    return {
        "topk_ids": ids,
        "topk_log_probabilities": probabilities.log().clamp_(min=_LOG_ZERO),
        "topk_log_tail": stored.log_tail.clamp(min=_LOG_ZERO),
    }


def sampled_digest(ids: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """One integer a position, (rows, L_out) int64, that its ids and counts decide."""
    return (ids * counts.to(torch.int64)).sum(-1)


def topk_digest(columns: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The same of top-k columns as they are stored, ids as int64; a hardly trained teacher gives all positions the same ids."""
    ids, log_probs = columns["topk_ids"], columns["topk_log_probs"]
    ranks = torch.arange(1, ids.shape[-1] + 1)
    return (ids * ranks).sum(-1) + log_probs.contiguous().view(torch.int16).to(torch.int64).sum(-1)


def tie(digest: torch.Tensor, labels: torch.Tensor) -> int:
    """A number that binds targets to the labels of their positions: a shift of one against the other is all but certain to change it.

    digest: (rows, L_out) int64; labels: (rows, L_out), -100 where not scored.
    """
    return int((digest % 65_521 * labels)[labels != -100].sum())


def sparse_notes(
    cache: Cache, columns: dict[str, Rows], labels: torch.Tensor, vocab_size: int
) -> dict[str, Any]:
    """Facts about a sample's sparse targets, from the stored columns; labels (rows, L_out), -100 where not scored."""
    notes: dict[str, Any] = {}
    scored = labels != -100
    positions = max(int(scored.sum()), 1)
    if SAMPLED in columns:
        coded = columns[SAMPLED]
        assert not isinstance(coded, torch.Tensor)
        read = read_sampled(coded, scored, cache.sampled.draws, vocab_size)
        used = read["sampled_counts"] > 0
        notes["sampled"] = {
            "tie": tie(sampled_digest(read["sampled_ids"], read["sampled_counts"]), labels),
            "unique_ids": int(used.sum()) / positions,
            "bytes_per_position": sum(map(len, coded)) / positions,
        }
    if TOPK[0] in columns:
        stored = {name: torch.as_tensor(columns[name]).cpu() for name in TOPK}
        stored["topk_ids"] = stored["topk_ids"].to(torch.int64)
        notes["topk"] = {
            "tie": tie(topk_digest(stored), labels),
            "tail_mass": float(stored["topk_log_tail"][scored].exp().mean()),
        }
    return notes
