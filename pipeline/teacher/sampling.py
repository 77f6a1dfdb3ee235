"""Draws of tokens from the teacher: the targets of Sparse Logit Sampling (arXiv 2503.16870).

They are sparse and unbiased. The same logits give the same draws, bit for bit, in any batch, in any
chunk and on any device. After the logits, nothing is computed that rounds differently elsewhere.
Probabilities are integers, from a table of powers of two, because the last bit of `exp` differs
between libraries. Sums of integers do not depend on their order. The random numbers are numpy's
Philox, keyed by (seed, shard, row) and read position by position.

The price is a grid. log2-probabilities are rounded to 2^-12, so a probability is off by a factor
within 1 ± 8.5e-5; bf16 logits are off by about 100 times that. A token less likely than 2^-40 of
the likeliest is never drawn.
"""

from __future__ import annotations

import hashlib
import math
from decimal import Context, Decimal
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ArtifactError

Method = Literal["independent", "systematic"]

#: Fractional bits of a log2-probability, and bits of the likeliest token's weight.
_GRID_BITS, _WEIGHT_BITS = 12, 40
#: Logits in one chunk: the integers made from 2^17 of them (1 MiB each) stay in a core's cache.
_CHUNK_CPU, _CHUNK_CUDA = 1 << 17, 1 << 25
#: Tokens in a block; each draw searches only one block token by token.
_BLOCK = 256


def uniforms(
    seed: int, shard: int, row: int, positions: int, draws: int, method: Method = "independent"
) -> Tensor:
    """Return random numbers in [0, 1), float64 (positions, draws).

    The numbers of the first positions stay the same when there are more positions. shard, row: the
    index of the example in the token artifact.

    With the method "independent" all are independent, as in the paper. With "systematic", draw i of
    a position is (i + u) / draws with one u per position (Madow 1949; in particle filters, arXiv
    cs/0507025, section 2.4). Each token's expected count is the same, so targets stay unbiased, but
    a count never differs from its expectation by 1 or more.
    """
    digest = hashlib.sha256(f"sampled targets/{seed}/{shard}/{row}".encode()).digest()
    stream = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    # Only raw words never change between numpy releases; 53 bits of each fill a float64.
    each = draws if method == "independent" else 1
    words = stream.random_raw(positions * each) >> 11
    u = words.astype(np.float64).reshape(positions, each) * 2.0**-53
    if method == "systematic":
        u = (np.arange(draws) + u) / draws
    return torch.from_numpy(u)


def sample_targets(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw token ids from softmax(logits / temperature).

    Its distribution function is inverted at `uniforms`.

    logits: (positions, vocabulary), any float dtype; a token with logit -inf is never drawn.
    uniforms: (positions, draws) in [0, 1), float64.
    Returns ids (positions, draws) int64 on the logits' device, ascending in each position.

    Raises ArtifactError when a position has a NaN, an infinite or no finite logit. Raises
    ValueError for shapes that do not fit. No tensor larger than one chunk is made.
    """
    if logits.dim() != 2 or uniforms.dim() != 2 or len(logits) != len(uniforms):
        raise ValueError(
            f"logits {tuple(logits.shape)} and uniforms {tuple(uniforms.shape)} need the same "
            "positions"
        )
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    positions, vocabulary = logits.shape
    u = uniforms.to(logits.device).sort(dim=1).values
    ids = torch.empty(u.shape, dtype=torch.int64, device=logits.device)
    worst = torch.zeros((), device=logits.device)
    rows = max(1, (_CHUNK_CPU if logits.device.type == "cpu" else _CHUNK_CUDA) // vocabulary)
    for start in range(0, positions, rows):
        part = slice(start, start + rows)
        weights, top = _weights(logits[part], temperature)
        worst = torch.maximum(worst, (top - top).abs().amax())  # NaN unless every top is finite
        ids[part] = _invert(weights, u[part])
    if not worst.isfinite():
        raise ArtifactError(
            "the teacher's logits are not finite: check its weights, and use bfloat16 or float32 "
            "as teacher.dtype"
        )
    return ids


def _weights(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return integers proportional to the probabilities, and the top logits.

    The integers are int64 (rows, blocks * _BLOCK), 0 beyond the vocabulary.
    """
    logits = logits.float()
    top = logits.amax(dim=1, keepdim=True)
    # The distance below the top, in steps of 2^-12 bits. Each product and difference is correctly
    # rounded on every device; a division by a number is not (CUDA multiplies by its reciprocal).
    steps_per_logit = float(np.float32((1 << _GRID_BITS) / (math.log(2.0) * temperature)))
    below = (top - logits).mul_(steps_per_logit).round_()
    steps = below.clamp_(max=float((_WEIGHT_BITS + 1) << _GRID_BITS)).to(torch.int32)
    vocabulary = logits.shape[1]
    weights = torch.zeros(
        len(logits), -(-vocabulary // _BLOCK) * _BLOCK, dtype=torch.int64, device=logits.device
    )
    fractions = _table(logits.device)[steps & ((1 << _GRID_BITS) - 1)]
    torch.bitwise_right_shift(
        fractions, steps.bitwise_right_shift_(_GRID_BITS), out=weights[:, :vocabulary]
    )
    return weights, top


def _invert(weights: Tensor, u: Tensor) -> Tensor:
    """Return the token that holds the share u of the cumulative weights.

    The block is searched first, then the token within it.
    """
    blocks = weights.unflatten(1, (-1, _BLOCK))
    ends = blocks.sum(dim=2).cumsum(dim=1)
    total = ends[:, -1:]
    # A product below `total` can be rounded up to it.
    targets = torch.minimum((u * total.double()).long(), total - 1)
    block = torch.searchsorted(ends, targets, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0)
    within = blocks[torch.arange(len(u), device=u.device)[:, None], block].cumsum(dim=2)
    inside = torch.searchsorted(within, (targets - before).unsqueeze(2), right=True).squeeze(2)
    return block * _BLOCK + inside


@lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    """Return 2^(40 - j / 4096) for j = 0 … 4095, rounded to int64.

    It is computed in decimal arithmetic and so the same on every machine.
    """
    context = Context(prec=40)
    ln2 = context.ln(Decimal(2))
    size = 1 << _GRID_BITS
    exponents = (
        context.multiply(ln2, context.subtract(_WEIGHT_BITS, Decimal(j) / size))
        for j in range(size)
    )
    return torch.tensor([int(context.exp(e).to_integral_value()) for e in exponents], device=device)
