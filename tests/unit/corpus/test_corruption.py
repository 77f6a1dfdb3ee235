"""Span corruption loses nothing, has T5's lengths, and depends on seed, view, block, row alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.corpus.corruption import corrupt, random_stream
from pipeline.corpus.lengths import Lengths, example_lengths
from pipeline.errors import ConfigError

EOS, VOCABULARY = 1, 70_000
SENTINELS = np.arange(VOCABULARY - 1, 60_000, -1, dtype=np.uint32)


def raw_rows(rows: int, lengths: Lengths, seed: int = 0) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(3, 60_000, (rows, lengths.raw)).astype(np.uint32)


def restored(inputs: NDArray[np.uint32], labels: NDArray[np.uint32]) -> list[int]:
    """Put each span of the labels back where its sentinel stands in the inputs."""
    spans: dict[int, list[int]] = {}
    for token in labels[:-1].tolist():
        if token > 60_000:
            assert token not in spans
            last = spans[token] = []
        else:
            last.append(token)
    out: list[int] = []
    for token in inputs[:-1].tolist():
        out += spans.pop(token) if token > 60_000 else [token]
    assert not spans
    return out


def test_the_known_lengths_of_t5() -> None:
    lengths = example_lengths(512, 0.15, 3.0)
    assert (lengths.raw, lengths.input, lengths.target) == (568, 512, 114)
    assert (lengths.noise, lengths.spans) == (85, 28)


@settings(deadline=None, max_examples=150)
@given(st.integers(3, 300), st.floats(0.01, 0.9), st.floats(1.0, 10.0), st.integers(0, 2**40))
def test_nothing_is_lost_and_inputs_are_full(
    length: int, density: float, mean: float, seed: int
) -> None:
    try:
        lengths = example_lengths(length, density, mean)
    except ConfigError as error:
        assume("do not fit" not in str(error))
        raise
    raw = raw_rows(3, lengths, seed)
    inputs, labels = corrupt(raw, random_stream(seed, 0, 0), lengths, SENTINELS, EOS)
    assert inputs.shape == (3, length)
    assert labels.shape == (3, lengths.target)
    for row in range(3):
        assert inputs[row, -1] == labels[row, -1] == EOS
        assert restored(inputs[row], labels[row]) == raw[row].tolist()
        # <extra_id_0>, <extra_id_1>, … in order; the inputs begin with text; no two touch.
        positions = np.flatnonzero(inputs[row] > 60_000)
        assert inputs[row, positions].tolist() == SENTINELS[: lengths.spans].tolist()
        assert positions[0] > 0
        assert (np.diff(positions) > 1).all()


def test_a_row_depends_on_its_number_alone() -> None:
    lengths = example_lengths(64, 0.15, 3.0)
    raw = raw_rows(600, lengths)
    inputs, labels = corrupt(raw, random_stream(7, 1, 2), lengths, SENTINELS, EOS)
    fewer = corrupt(raw[:300], random_stream(7, 1, 2), lengths, SENTINELS, EOS)
    np.testing.assert_array_equal(fewer[0], inputs[:300])
    np.testing.assert_array_equal(fewer[1], labels[:300])
    for other in ((8, 1, 2), (7, 0, 2), (7, 1, 3)):
        assert (corrupt(raw, random_stream(*other), lengths, SENTINELS, EOS)[0] != inputs).any(
            axis=1
        ).mean() > 0.9


def test_all_divisions_are_equally_likely() -> None:
    # 6 noise tokens in 2 spans: the first has 1 … 5 of them, each in a fifth of the rows.
    lengths = Lengths(raw=40, noise=6, spans=2)
    _, labels = corrupt(raw_rows(20_000, lengths), random_stream(0, 0, 0), lengths, SENTINELS, EOS)
    first = np.argmax(labels[:, 1:] > 60_000, axis=1)
    np.testing.assert_allclose(np.bincount(first, minlength=6)[1:] / 20_000, 0.2, atol=0.015)


def test_the_random_words_are_pinned() -> None:
    # Tokens made by another release of numpy, or on another machine, must be the same.
    lengths = Lengths(raw=12, noise=4, spans=2)
    raw = np.arange(100, 112, dtype=np.uint32)[None]
    inputs, labels = corrupt(raw, random_stream(0, 0, 0), lengths, SENTINELS, EOS)
    assert inputs.tolist() == [[100, 69999, 102, 103, 104, 105, 106, 107, 108, 69998, 1]]
    assert labels.tolist() == [[69999, 101, 69998, 109, 110, 111, 1]]


@pytest.mark.parametrize(
    ("length", "density", "said"), [(2, 0.15, "too short"), (128, 0.95, "spans do not fit")]
)
def test_impossible_settings_are_refused(length: int, density: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        example_lengths(length, density, 1.0 if density > 0.5 else 3.0)
