"""A compact lossless code for one example's sampled targets.

It stores the ids and counts of each position, in about 24 bytes for 12 ids. Ids ascend within a
position. The code therefore stores the distance of each id from the one before (of the first from
-1), less 1. Distances and counts - 1 are written in exponential Golomb codes (Teuhola 1978). For a
value v and a parameter k, x = v + 2^k has w + 1 bits. The code of v is w - k zeros and a one, then
the w bits of x below its leading one. k is chosen for each example.

On uniform ids this takes 0.4 bytes a position more than Rice codes. On ids with the frequencies of
a language it takes 2 to 5 bytes fewer, and no value has a long code. The number of ids of a
position is not stored: its counts end where they sum to `draws`.

    header    <BBBBIIII: version, k of the distances, k of the counts, 0, draws, positions, ids,
              CRC-32 of all the rest
    bits      w - k of all distances in unary, then of all counts, then the low bits of all
              distances, then of all counts; high bit first, zeros up to a whole byte

The unary parts come first and together, so that one search for ones finds them all. The offsets of
the low bits follow from them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import CorruptArtifact

VERSION = 1
#: Ids are below 2^20 and counts at most 2^20, so that each code has at most 20 low bits, which fit
#: in any 4 bytes.
MAX_VOCABULARY = MAX_DRAWS = 1 << 20
_HEADER = struct.Struct("<BBBBIIII")
_MAX_K = 20

Ints = NDArray[np.int64]


class Targets(NamedTuple):
    """Sampled targets of one example: position p has lengths[p] ids; all int64."""

    #: (sum of lengths,): ascending within a position.
    ids: Ints
    #: (sum of lengths,): how often each was drawn; at least 1, and `draws` in all for each
    #: position.
    counts: Ints
    #: (positions,): at least 1.
    lengths: Ints


def count_draws(samples: torch.Tensor) -> Targets:
    """Count how often each id was drawn.

    samples: (positions, draws) int64, ascending, as `sample_targets` returns them.
    """
    drawn = samples.cpu().numpy()
    first = np.ones(drawn.shape, np.bool_)
    first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    starts = np.flatnonzero(first)
    return Targets(drawn[first], np.diff(starts, append=drawn.size), first.sum(axis=1))


def encode(targets: Targets, draws: int) -> bytes:
    """Encode the targets of one example.

    Raises ValueError unless they are as `Targets` says and the counts of each position sum to
    `draws`.
    """
    ids, counts, lengths = (np.asarray(part, np.int64) for part in targets)
    if not (
        len(ids) == len(counts) == lengths.sum() and (lengths > 0).all() and (counts > 0).all()
    ):
        raise ValueError(
            "targets need one id or more in each position, and for each id a count of 1 or more"
        )
    starts = _starts(lengths)
    distances = np.diff(ids, prepend=-1) - 1
    distances[starts] = ids[starts]
    if (distances < 0).any() or (ids >= MAX_VOCABULARY).any():
        raise ValueError(
            f"ids must ascend within a position, from 0 or more to less than {MAX_VOCABULARY}"
        )
    if not 0 < draws <= MAX_DRAWS or (np.add.reduceat(counts, starts) != draws).any():
        raise ValueError(
            f"the counts of a position must sum to {draws}, which must be 1 to {MAX_DRAWS}"
        )
    (id_k, id_prefix, id_low), (count_k, count_prefix, count_low) = (
        _golomb(distances),
        _golomb(counts - 1),
    )
    unary = np.concatenate([id_prefix, count_prefix])
    ends = np.cumsum(unary + 1)
    head = int(ends[-1]) if len(ends) else 0
    bits = np.zeros(
        head + int((unary[: len(ids)] + id_k).sum() + (unary[len(ids) :] + count_k).sum()), np.uint8
    )
    bits[ends - 1] = 1
    widths = np.concatenate([id_prefix + id_k, count_prefix + count_k])
    bits[head:] = _spread(np.concatenate([id_low, count_low]), widths)
    body = np.packbits(bits).tobytes()
    fields = (VERSION, id_k, count_k, 0, draws, len(lengths), len(ids))
    return _HEADER.pack(*fields, _checksum(fields, body)) + body


def decode(data: bytes | memoryview, *, draws: int, positions: int, vocab_size: int) -> Targets:
    """Decode the bytes that `encode` wrote.

    draws: the expected draws of each position.
    positions: the expected number of positions.
    vocab_size: the expected bound on ids.

    Raises CorruptArtifact for bytes that `encode` did not write, and for values other than the
    expected ones. Takes memory in proportion to len(data), for any bytes.
    """
    if len(data) < _HEADER.size:
        raise CorruptArtifact(
            f"sampled targets: {len(data)} bytes are fewer than a header; the shard must be rebuilt"
        )
    *fields, checksum = _HEADER.unpack_from(data)
    version, id_k, count_k, _, stored_draws, stored_positions, size = fields
    body = bytes(data[_HEADER.size :])
    if version != VERSION or checksum != _checksum(tuple(fields), body):
        raise CorruptArtifact(
            f"sampled targets: the checksum or the version ({version}, not {VERSION}) is wrong; "
            "the shard must be rebuilt"
        )
    if (stored_draws, stored_positions) != (draws, positions):
        raise CorruptArtifact(
            f"sampled targets: {stored_positions} positions of {stored_draws} draws instead of "
            f"{positions} of {draws}: the cache and the labels are not of the same rows; "
            "cache again"
        )
    targets = _decode_body(body, id_k, count_k, size, draws)
    if (
        targets is None
        or len(targets.lengths) != positions
        or (size and targets.ids.max() >= vocab_size)
    ):
        raise CorruptArtifact(
            "sampled targets: the bits contradict each other; the shard must be rebuilt"
        )
    return targets


def pad_targets(
    targets: Sequence[Targets], mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad a batch's targets for `pipeline.objectives.logits.sampled_kl`.

    mask: (batch, L), true where a label is scored. targets: targets[b] holds the scored positions
    of row b, in order.
    Returns ids (batch, L, widest) int64 and counts (batch, L, widest) float32 on the CPU; 0 where
    unused. Raises CorruptArtifact when a row has a different number of positions and targets.
    """
    scored = mask.cpu().numpy().astype(np.bool_)
    lengths = np.concatenate([part.lengths for part in targets])
    if [len(part.lengths) for part in targets] != scored.sum(axis=1).tolist():
        raise CorruptArtifact(
            "sampled targets and labels differ in their number of positions: cache again"
        )
    widest = int(lengths.max()) if len(lengths) else 1
    position = np.repeat(np.flatnonzero(scored), lengths)
    rank = np.arange(len(position)) - np.repeat(_starts(lengths), lengths)
    ids, counts = (
        np.zeros((scored.size, widest), np.int64),
        np.zeros((scored.size, widest), np.float32),
    )
    ids[position, rank] = np.concatenate([part.ids for part in targets])
    counts[position, rank] = np.concatenate([part.counts for part in targets])
    shape = (*scored.shape, widest)
    return torch.from_numpy(ids).view(shape), torch.from_numpy(counts).view(shape)


def _decode_body(body: bytes, id_k: int, count_k: int, size: int, draws: int) -> Targets | None:
    """Return the targets, or None when the bits contradict each other."""
    if id_k > _MAX_K or count_k > _MAX_K or 2 * size > 8 * len(body):
        return None
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(body, np.uint8)))[: 2 * size]
    if len(ones) < 2 * size:
        return None
    widths = np.diff(ones, prepend=-1) - 1
    widths[:size] += id_k
    widths[size:] += count_k
    head = int(ones[-1]) + 1 if size else 0
    end = head + int(widths.sum())
    if len(body) != (end + 7) // 8 or (size and widths.max() > _MAX_K):
        return None
    values = _gather(body, head + np.cumsum(widths) - widths, widths) + (1 << widths)
    distances, counts = values[:size] - (1 << id_k), values[size:] - (1 << count_k) + 1
    drawn = np.cumsum(counts)
    # A position ends where its counts reach `draws`: each multiple of it up to the last sum must be
    # met.
    last = np.flatnonzero(drawn % draws == 0)
    if size and (len(last) * draws != drawn[-1] or last[-1] != size - 1):
        return None
    lengths = np.diff(last, prepend=-1)
    ends = np.cumsum(distances + 1)
    before = (
        np.concatenate([np.zeros(1, np.int64), ends[last[:-1]]]) if size else np.zeros(0, np.int64)
    )
    return Targets(ends - 1 - np.repeat(before, lengths), counts, lengths)


def _golomb(values: Ints) -> tuple[int, Ints, Ints]:
    """Return the k that needs the fewest bits, then w - k and the w low bits of each value."""
    # Beyond the largest value, each step of k costs each code one more bit.
    largest = int(values.max()).bit_length() if len(values) else 0
    costs = [
        2 * int(np.frexp(values + (1 << k))[1].sum()) - k * len(values) for k in range(largest + 1)
    ]
    k = costs.index(min(costs))
    shifted = values + (1 << k)
    widths = np.frexp(shifted)[1].astype(np.int64) - 1
    return k, widths - k, shifted - (1 << widths)


def _spread(values: Ints, widths: Ints) -> NDArray[np.uint8]:
    """Return the bits of all values, one value after the other, high bit first.

    widths: the number of bits of each value.
    """
    shift = np.repeat(np.cumsum(widths), widths) - 1 - np.arange(widths.sum())
    return ((np.repeat(values, widths) >> shift) & 1).astype(np.uint8)


def _gather(body: bytes, offsets: Ints, widths: Ints) -> Ints:
    """Read an integer of widths[i] bits (at most 25) at bit offsets[i], high bit first."""
    padded = np.frombuffer(body + bytes(8), np.uint8)
    # A view of all overlapping 4-byte words.
    words = np.ndarray((len(padded) - 3,), dtype=">u4", buffer=padded, strides=(1,))
    read = words[offsets >> 3].astype(np.int64)
    return (read >> (32 - (offsets & 7) - widths)) & ((1 << widths) - 1)


def _starts(lengths: Ints) -> Ints:
    return np.cumsum(lengths) - lengths


def _checksum(fields: tuple[int, ...], body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_HEADER.pack(*fields, 0)))
