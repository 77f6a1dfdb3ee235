"""The teacher's k most probable tokens and the mass of all others.

These targets are biased, unlike those of `sampling`. They serve for comparison, and for divergences
that samples cannot estimate. They take 4 bytes per entry (6 beyond 65,536 tokens) and 4 per
position.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ArtifactError

#: Logits in one chunk: 2^17 of them are 512 KiB, which stays in a core's cache.
_CHUNK_CPU, _CHUNK_CUDA = 1 << 17, 1 << 25
#: Tokens in a block; the maximum of a block decides whether its tokens are compared one by one.
_BLOCK = 32


class TopK(NamedTuple):
    """Targets at temperature 1, most probable first, and the lower id first among equals."""

    #: (positions..., k) uint16, or uint32 for more than 65,536 tokens.
    ids: Tensor
    #: (positions..., k) float16: natural logarithms, with a relative error of 2^-11.
    log_probs: Tensor
    #: (positions...) float32: the log of the total mass of all other tokens; -inf if there are
    #: none.
    log_tail: Tensor


def top_k_targets(logits: Tensor, k: int) -> TopK:
    """Return the k most probable tokens of each position.

    logits: (positions..., vocabulary), any float dtype; a token with logit -inf has probability 0.
    They are computed in float32, on the logits' device, a few positions at a time. The chosen
    tokens are the same on every device and in every batch.
    Raises ArtifactError when a position has a NaN, an infinite or no finite logit. Raises
    ValueError unless 1 <= k <= vocabulary.
    """
    vocabulary = logits.shape[-1]
    if not 1 <= k <= vocabulary:
        raise ValueError(f"k must be 1 to {vocabulary}, the vocabulary, not {k}")
    flat = logits.reshape(-1, vocabulary)
    ids = torch.empty((len(flat), k), dtype=torch.int64, device=logits.device)
    log_probs = torch.empty((len(flat), k), dtype=torch.float32, device=logits.device)
    log_tail = torch.empty(len(flat), dtype=torch.float32, device=logits.device)
    rows = max(1, (_CHUNK_CPU if logits.device.type == "cpu" else _CHUNK_CUDA) // vocabulary)
    for start in range(0, len(flat), rows):
        part = slice(start, start + rows)
        values = flat[part].float()
        ids[part] = _top_ids(values, k)
        total = values.logsumexp(-1, keepdim=True)
        log_probs[part] = values.gather(1, ids[part]) - total
        # Summed over the tail itself: 1 minus the k probabilities would leave rounding errors where
        # the tail is small.
        tail = values.clone().scatter_(1, ids[part], -torch.inf).logsumexp(-1)
        log_tail[part] = tail - total.squeeze(1)
    if log_probs[:, 0].isnan().any():
        raise ArtifactError(
            "the teacher's logits are not finite: check its weights, and use bfloat16 or float32 "
            "as teacher.dtype"
        )
    shape = logits.shape[:-1]
    small = torch.uint16 if vocabulary <= 1 << 16 else torch.uint32
    return TopK(
        ids.to(small).view(*shape, k), log_probs.half().view(*shape, k), log_tail.view(shape)
    )


def top_k_probabilities(targets: TopK) -> tuple[Tensor, Tensor]:
    """Return int64 ids and float32 probabilities for `pipeline.objectives.logits.topk_kl`.

    The probabilities are scaled to sum to 1 minus the tail's mass, so that float16's rounding does
    not change that mass.
    """
    p = targets.log_probs.float().exp()
    inside = -torch.expm1(targets.log_tail.clamp(max=0.0)).unsqueeze(-1)
    return targets.ids.to(torch.int64), p * (inside / p.sum(-1, keepdim=True))


def _top_ids(values: Tensor, k: int) -> Tensor:
    """Return the ids of the k largest values, (rows, k), the lower id first among equals.

    `torch.topk` does not define the order of equals. The k blocks of tokens with the largest maxima
    (the first among equals) hold all of them: k tokens come before any token of another block. So
    only these blocks are ordered.
    """
    blocks = -(-values.shape[1] // _BLOCK)
    if blocks <= k:
        return _first(values, k)
    missing = blocks * _BLOCK - values.shape[1]
    padded = torch.nn.functional.pad(values, (0, missing), value=-torch.inf) if missing else values
    grouped = padded.unflatten(1, (blocks, _BLOCK))
    chosen = _first(grouped.amax(dim=2), k).sort(dim=1).values
    inside = _first(grouped.gather(1, chosen.unsqueeze(2).expand(-1, -1, _BLOCK)).flatten(1), k)
    return chosen.gather(1, inside // _BLOCK) * _BLOCK + inside % _BLOCK


def _first(values: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest, (rows, k), largest first, then the lower index first."""
    # The bits of floats order as integers once those of negative floats are inverted; + 0.0 makes
    # -0.0 equal to 0.0.
    bits = (values + 0.0).view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = (ordered << 32) | torch.arange(values.shape[1] - 1, -1, -1, device=values.device)
    return values.shape[1] - 1 - (keys.topk(k, dim=1).values & 0xFFFFFFFF)
