"""T5's span corruption, vectorised over rows (Raffel et al. 2020, section 3.1.4 and appendix B).

The arithmetic is that of T5's own preprocessing (`random_spans_helper` and `random_spans_noise_mask` in
https://github.com/google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py): every row has the same
number of noise tokens and of spans, rows start with kept text and end with a span, and inputs with their EOS fill the
length asked for exactly, so nothing is ever padded. T5's special case for a density of exactly 0.5 is left out.

Pure: no I/O, and the same row for the same (seed, view, block, row), whatever is computed beside it.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

#: Rows worked on at once: large enough for numpy, small enough for the cache.
_ROWS = 256


class Lengths(NamedTuple):
    """How the tokens of one example are divided; the same for all examples."""

    raw: int
    noise: int
    spans: int

    @property
    def input(self) -> int:
        """Kept tokens, a sentinel per span, EOS."""
        return self.raw - self.noise + self.spans + 1

    @property
    def target(self) -> int:
        """Noise tokens, a sentinel per span, EOS."""
        return self.noise + self.spans + 1


def lengths_of(raw: int, noise_density: float, mean_span_length: float) -> Lengths:
    """Return how `raw` tokens (at least 2) are divided: round(raw * density) of them noise, in round(noise / mean) spans."""
    noise = min(max(round(raw * noise_density), 1), raw - 1)
    return Lengths(raw, noise, max(round(noise / mean_span_length), 1))


def example_lengths(input_length: int, noise_density: float, mean_span_length: float) -> Lengths:
    """Return the largest number of raw tokens whose corrupted inputs, EOS included, fill `input_length`.

    512 at density 0.15 and mean 3 gives 568 raw tokens, 85 of them noise in 28 spans: 512 inputs and 114 targets.
    Raises ConfigError where no such number exists or spans would have to touch each other.
    """
    settings = f"tokens.input_length={input_length}, noise_density={noise_density}, mean_span_length={mean_span_length}"
    # One raw token more makes the inputs longer by 0 or 1, so the largest that fits fills them exactly.
    low, high = 1, 2
    while lengths_of(high, noise_density, mean_span_length).input <= input_length:
        if high > 1000 * input_length:
            raise ConfigError(f"{settings}: nearly everything is noise; lower tokens.noise_density")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = lengths_of(middle, noise_density, mean_span_length).input <= input_length
        low, high = (middle, high) if fits else (low, middle)
    if low < 2:
        raise ConfigError(
            f"{settings}: too short for one span; set tokens.input_length to 3 or more"
        )
    found = lengths_of(low, noise_density, mean_span_length)
    if found.spans > found.raw - found.noise or found.spans > found.noise:
        raise ConfigError(
            f"{settings}: {found.spans} spans do not fit between {found.raw - found.noise} kept tokens; "
            "lower tokens.noise_density or raise tokens.mean_span_length"
        )
    return found


def random_stream(seed: int, view: int, block: int) -> np.random.Philox:
    """Return the counter-based generator of one view of one block; `corrupt` reads it row after row.

    Only its raw words are used: unlike the methods of numpy's Generator, they never change between numpy releases.
    """
    digest = hashlib.sha256(f"span corruption/{seed}/{view}/{block}".encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def corrupt(
    raw_ids: NDArray[np.uint32],
    stream: np.random.Philox,
    lengths: Lengths,
    sentinels: NDArray[np.uint32],
    eos: int,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Corrupt every row of `raw_ids` (rows, lengths.raw).

    stream: advanced by the same number of words for every row, so that a row's spans depend on its number alone.
    sentinels: ids of <extra_id_0>, <extra_id_1>, …; at least lengths.spans of them.
    Returns uint32 input_ids (rows, lengths.input) and labels (rows, lengths.target), both ending with `eos`.
    """
    assert raw_ids.ndim == 2, raw_ids.shape
    assert raw_ids.shape[1] == lengths.raw, (raw_ids.shape, lengths)
    inputs = np.full((len(raw_ids), lengths.input), eos, np.uint32)
    labels = np.full((len(raw_ids), lengths.target), eos, np.uint32)
    for start in range(0, len(raw_ids), _ROWS):
        raw = raw_ids[start : start + _ROWS]
        kept_start, noise_start, noise = _mark_spans(len(raw), stream, lengths)
        # All rows keep the same number of tokens, so the kept ones of many rows reshape into rows again.
        chosen = _sentinels_at(noise_start, raw, sentinels)[~noise | noise_start]
        inputs[start : start + _ROWS, :-1] = chosen.reshape(len(raw), -1)
        chosen = _sentinels_at(kept_start, raw, sentinels)[noise | kept_start]
        labels[start : start + _ROWS, :-1] = chosen.reshape(len(raw), -1)
    return inputs, labels


Mask = NDArray[np.bool_]


def _sentinels_at(
    starts: Mask, raw: NDArray[np.uint32], sentinels: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    replaced = raw.astype(np.uint32)
    # Starts are found row by row, in order, and every row has as many as there are spans.
    replaced[starts] = np.tile(sentinels[: starts[0].sum()], len(raw))
    return replaced


def _mark_spans(rows: int, stream: np.random.Philox, lengths: Lengths) -> tuple[Mask, Mask, Mask]:
    """Return (rows, raw) masks: first tokens of kept spans, first tokens of noise spans, all noise tokens."""
    kept = lengths.raw - lengths.noise
    # Words for both segmentations of a row are neighbours in the stream.
    words = stream.random_raw(rows * (lengths.raw - 2)).reshape(rows, lengths.raw - 2)
    kept_lengths = _segment(words[:, : kept - 1], kept, lengths.spans)
    noise_lengths = _segment(words[:, kept - 1 :], lengths.noise, lengths.spans)
    ends = np.stack([kept_lengths, noise_lengths], axis=2).reshape(rows, -1).cumsum(axis=1)
    kept_start, noise_start = np.zeros((2, rows, lengths.raw), np.bool_)
    row = np.arange(rows)[:, None]
    kept_start[:, 0] = True
    kept_start[row, ends[:, 1:-1:2]] = True
    noise_start[row, ends[:, 0::2]] = True
    depth = noise_start.astype(np.int8) - kept_start
    depth[:, 0] = 0
    return kept_start, noise_start, depth.cumsum(axis=1, dtype=np.int8).astype(np.bool_)


def _segment(words: NDArray[np.uint64], items: int, segments: int) -> NDArray[np.int64]:
    """Divide `items` into `segments` positive lengths per row, all divisions equally likely.

    words: (rows, items - 1) random numbers; the places of the `segments - 1` smallest are where a new segment starts.
    """
    cuts = np.empty((len(words), segments + 1), np.int64)
    cuts[:, 0], cuts[:, -1] = 0, items
    if segments > 1:
        smallest = np.argpartition(words, segments - 2, axis=1)[:, : segments - 1]
        cuts[:, 1:-1] = np.sort(smallest, axis=1) + 1
    return np.diff(cuts, axis=1)
