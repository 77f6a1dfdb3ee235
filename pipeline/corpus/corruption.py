"""T5's span corruption, vectorised over rows (Raffel et al. 2020, section 3.1.4 and appendix B).

The arithmetic is that of T5's own preprocessing (`random_spans_helper` and
`random_spans_noise_mask` in https://github.com/google-research/text-to-text-transfer-transformer,
t5/data/preprocessors.py). Every row has the same number of noise tokens and of spans. Rows start
with kept text and end with a span. Inputs with their EOS fill the requested length exactly, so
nothing is ever padded. T5's special case for a density of exactly 0.5 is left out.

Pure: no I/O. The same (seed, view, block, row) gives the same row, computed alone or with others.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.lengths import Lengths

#: Rows processed at once: large enough for numpy, small enough for the cache.
_ROWS = 256

Mask = NDArray[np.bool_]


def random_stream(seed: int, view: int, block: int) -> np.random.Philox:
    """Return the counter-based generator of one view of one block; `corrupt` reads it by rows.

    Only its raw words are used: unlike the methods of numpy's Generator, they never change between
    numpy releases.
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

    stream: advanced by the same number of words for every row, so a row's spans depend on its
        number alone.
    sentinels: ids of <extra_id_0>, <extra_id_1>, …; at least lengths.spans of them.
    Returns uint32 input_ids (rows, lengths.input) and labels (rows, lengths.target), both ending
    with `eos`.
    """
    assert raw_ids.ndim == 2, raw_ids.shape
    assert raw_ids.shape[1] == lengths.raw, (raw_ids.shape, lengths)
    inputs = np.full((len(raw_ids), lengths.input), eos, np.uint32)
    labels = np.full((len(raw_ids), lengths.target), eos, np.uint32)
    for start in range(0, len(raw_ids), _ROWS):
        raw = raw_ids[start : start + _ROWS]
        kept_start, noise_start, noise = _mark_spans(len(raw), stream, lengths)
        # All rows keep the same number of tokens, so those of many rows reshape into rows again.
        chosen = _sentinels_at(noise_start, raw, sentinels)[~noise | noise_start]
        inputs[start : start + _ROWS, :-1] = chosen.reshape(len(raw), -1)
        chosen = _sentinels_at(kept_start, raw, sentinels)[noise | kept_start]
        labels[start : start + _ROWS, :-1] = chosen.reshape(len(raw), -1)
    return inputs, labels


def _sentinels_at(
    starts: Mask, raw: NDArray[np.uint32], sentinels: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    replaced = raw.astype(np.uint32)
    # Starts are found row by row, in order, and every row has as many as there are spans.
    replaced[starts] = np.tile(sentinels[: starts[0].sum()], len(raw))
    return replaced


def _mark_spans(rows: int, stream: np.random.Philox, lengths: Lengths) -> tuple[Mask, Mask, Mask]:
    """Return (rows, raw) masks: first tokens of kept spans, of noise spans, all noise tokens."""
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

    words: (rows, items - 1) random numbers; a new segment starts at the positions of the
        `segments - 1` smallest.
    """
    cuts = np.empty((len(words), segments + 1), np.int64)
    cuts[:, 0], cuts[:, -1] = 0, items
    if segments > 1:
        smallest = np.argpartition(words, segments - 2, axis=1)[:, : segments - 1]
        cuts[:, 1:-1] = np.sort(smallest, axis=1) + 1
    return np.diff(cuts, axis=1)
