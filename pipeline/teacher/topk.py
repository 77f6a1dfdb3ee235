"""The teacher's k most probable tokens and the mass of all others: biased targets, unlike those of `sampling`.

For comparison, and for divergences that samples cannot serve. 4 bytes an entry (6 beyond 65,536 tokens) and 4 a position.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ArtifactError

#: Logits in one chunk: 2^17 of them are 512 KiB, which stays in a core's cache.
_CHUNK_CPU, _CHUNK_CUDA = 1 << 17, 1 << 25
#: Tokens whose maximum decides whether they are looked at one by one.
_BLOCK = 32


class TopK(NamedTuple):
    """At temperature 1, most probable first; of equally probable tokens the one with the lower id comes first."""

    #: (positions..., k) uint16, or uint32 for more than 65,536 tokens.
    ids: Tensor
    #: (positions..., k) float16: natural logarithms; an error of 2^-11 of their size.
    log_probs: Tensor
    #: (positions...) float32: the logarithm of what all other tokens have together; -inf when there are none.
    log_tail: Tensor


def top_k_targets(logits: Tensor, k: int) -> TopK:
    """Take the k most probable of each position.

    logits: (positions..., vocabulary), any float dtype; -inf is a token of probability 0. Computed in float32, on the
    logits' device, a few positions at a time. Which tokens are taken is the same on every device and in every batch.
    Raises ArtifactError when a position has a NaN, an infinite or no finite logit; ValueError unless 1 <= k <= vocabulary.
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
        # Taken from the tail itself: 1 less the k probabilities would leave rounding errors where the tail is small.
        log_tail[part] = values.clone().scatter_(1, ids[part], -torch.inf).logsumexp(
            -1
        ) - total.squeeze(1)
    if log_probs[:, 0].isnan().any():
        raise ArtifactError(
            "the teacher's logits are not finite: check its weights, and use bfloat16 or float32 as teacher.dtype"
        )
    shape = logits.shape[:-1]
    small = torch.uint16 if vocabulary <= 1 << 16 else torch.uint32
    return TopK(
        ids.to(small).view(*shape, k), log_probs.half().view(*shape, k), log_tail.view(shape)
    )


def top_k_probabilities(targets: TopK) -> tuple[Tensor, Tensor]:
    """Undo `top_k_targets`: int64 ids and float32 probabilities, as `pipeline.objectives.logits.topk_kl` takes them.

    The probabilities are scaled to what the tail leaves, so that float16's rounding does not reach the tail's mass.
    """
    p = targets.log_probs.float().exp()
    inside = -torch.expm1(targets.log_tail.clamp(max=0.0)).unsqueeze(-1)
    return targets.ids.to(torch.int64), p * (inside / p.sum(-1, keepdim=True))


def _top_ids(values: Tensor, k: int) -> Tensor:
    """(rows, k): the k largest, the lower id first among equals, which `topk` alone leaves open.

    Of blocks of tokens, the k with the largest maxima (the first among equals) hold them all: a token of another block has
    k that come before it. So only these are ordered.
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
    """(rows, k): where the k largest are, largest first, and of equals the one to the left first."""
    # A float's bits order as integers once those of negative floats are turned round; + 0.0 makes -0.0 equal to 0.0.
    bits = (values + 0.0).view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = (ordered << 32) | torch.arange(values.shape[1] - 1, -1, -1, device=values.device)
    return values.shape[1] - 1 - (keys.topk(k, dim=1).values & 0xFFFFFFFF)
