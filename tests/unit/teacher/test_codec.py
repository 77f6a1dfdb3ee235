"""The codec of sampled targets: lossless for all targets, small, and an error of one kind for all
other bytes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorruptArtifact
from pipeline.objectives.logits import sampled_kl
from pipeline.teacher.codec import MAX_VOCABULARY, Targets, count_draws, decode, encode, pad_targets
from pipeline.teacher.sampling import sample_targets, uniforms


@st.composite
def targets(draw: st.DrawFn) -> tuple[Targets, int, int]:
    """Targets of up to six positions, their draws and vocabulary: ids spread out, crowded together,
    or at the ends."""
    vocabulary = draw(st.sampled_from([1, 2, 7, 300, 32_128, 250_112, MAX_VOCABULARY]))
    draws = draw(st.sampled_from([1, 2, 50, 1000]))
    low, high = draw(
        st.sampled_from(
            [(0, vocabulary - 1), (0, min(9, vocabulary - 1)), (vocabulary - 1, vocabulary - 1)]
        )
    )
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        most = min(draws, 12, high - low + 1)
        ids = sorted(draw(st.sets(st.integers(low, high), min_size=1, max_size=most)))
        cuts = sorted(
            draw(
                st.lists(
                    st.integers(0, draws - len(ids)), min_size=len(ids) - 1, max_size=len(ids) - 1
                )
            )
        )
        parts.append((ids, np.diff([0, *cuts, draws - len(ids)]) + 1))
    ids, counts = ([x for part in parts for x in part[i]] for i in (0, 1))
    arrays = (np.array(x, np.int64) for x in (ids, counts, [len(part[0]) for part in parts]))
    return Targets(*arrays), draws, vocabulary


def same(a: Targets, b: Targets) -> bool:
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


@settings(max_examples=300, deadline=None)
@given(targets())
def test_what_is_encoded_is_decoded(case: tuple[Targets, int, int]) -> None:
    original, draws, vocabulary = case
    data = encode(original, draws)
    assert same(
        decode(data, draws=draws, positions=len(original.lengths), vocab_size=vocabulary), original
    )
    if len(original.ids):
        with pytest.raises(CorruptArtifact, match="contradict"):
            decode(
                data,
                draws=draws,
                positions=len(original.lengths),
                vocab_size=int(original.ids.max()),
            )


@settings(max_examples=300, deadline=None)
@given(targets(), st.data())
def test_damaged_bytes_are_an_error(case: tuple[Targets, int, int], data: st.DataObject) -> None:
    original, draws, vocabulary = case
    good = encode(original, draws)
    bad = bytearray(good)
    bit = data.draw(st.integers(0, 8 * len(bad) - 1))
    bad[bit // 8] ^= 1 << bit % 8
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    for broken in (bytes(bad), cut, good + b"\0"):
        with pytest.raises(CorruptArtifact):
            decode(broken, draws=draws, positions=len(original.lengths), vocab_size=vocabulary)


HEADER = struct.Struct("<BBBBIIII")


@settings(max_examples=500, deadline=None)
@given(
    k=st.tuples(st.integers(0, 255), st.integers(0, 255))
    | st.tuples(st.integers(0, 3), st.integers(0, 3)),
    size=st.integers(0, 40) | st.integers(0, 2**32 - 1),
    body=st.binary(max_size=60),
    draws=st.sampled_from([1, 3, 50]),
    positions=st.integers(0, 4),
)
def test_bytes_that_were_never_encoded_are_an_error_or_sound(
    k: tuple[int, int], size: int, body: bytes, draws: int, positions: int
) -> None:
    """With a right checksum, so that it is not the checksum alone that saves the reader."""
    header = HEADER.pack(1, *k, 0, draws, positions, size, 0)
    header = header[:-4] + struct.pack("<I", zlib.crc32(body, zlib.crc32(header)))
    try:
        found = decode(header + body, draws=draws, positions=positions, vocab_size=1000)
    except CorruptArtifact:
        return
    assert len(found.lengths) == positions
    assert same(
        decode(encode(found, draws), draws=draws, positions=positions, vocab_size=1000), found
    )


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_random_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(CorruptArtifact):
        decode(data, draws=50, positions=3, vocab_size=32_128)


def test_other_rows_than_expected_are_named() -> None:
    data = encode(count_draws(torch.tensor([[1, 1, 4], [0, 2, 3]])), 3)
    with pytest.raises(CorruptArtifact, match="2 positions of 3 draws instead of 3 of 3"):
        decode(data, draws=3, positions=3, vocab_size=9)
    with pytest.raises(CorruptArtifact, match="2 positions of 3 draws instead of 2 of 50"):
        decode(data, draws=50, positions=2, vocab_size=9)


@pytest.mark.parametrize(
    ("ids", "counts", "lengths"),
    [
        ([1, 1], [1, 2], [2]),
        ([2, 1], [1, 2], [2]),
        ([1, 2], [1, 1], [2]),
        ([1, 2], [3, 0], [2]),
        ([1, 2], [1, 2], [1]),
        ([1, 2], [1, 2], [2, 0]),
        ([1, 1 << 20], [1, 2], [2]),
        ([-1, 2], [1, 2], [2]),
    ],
)
def test_targets_that_cannot_be_are_refused(
    ids: list[int], counts: list[int], lengths: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"targets need|ids must ascend|must sum to 3"):
        encode(Targets(*(np.array(x, np.int64) for x in (ids, counts, lengths))), 3)


@pytest.mark.parametrize(("vocabulary", "limit"), [(32_128, 25.0), (250_112, 29.5)])
def test_twelve_ids_take_little_even_when_uniform(vocabulary: int, limit: float) -> None:
    """12 of 50 draws, in geometric shares; log2 C(32128, 12) alone, the bound for the ids without
    counts, is 19 bytes."""
    rng = np.random.default_rng(0)
    positions = 114
    ids = np.concatenate(
        [np.sort(rng.choice(vocabulary, 12, replace=False)) for _ in range(positions)]
    )
    shares = [1 + c for c in (14, 8, 6, 4, 3, 2, 1, 0, 0, 0, 0, 0)]
    counts = np.concatenate([rng.permutation(shares) for _ in range(positions)])
    assert sum(shares) == 50
    data = encode(Targets(ids, counts, np.full(positions, 12)), 50)
    assert len(data) / positions < limit


def test_a_certain_teacher_takes_next_to_nothing() -> None:
    data = encode(count_draws(torch.full((114, 50), 3)), 50)
    assert len(data) / 114 < 2.5


def test_padded_targets_give_the_loss_of_each_position() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 1, 1, 1]], dtype=torch.bool)
    student, teacher = torch.randn(2, 3, 5, 30, generator=generator)
    rows = [
        count_draws(sample_targets(teacher[b][mask[b]], uniforms(0, 0, b, int(mask[b].sum()), 8)))
        for b in range(3)
    ]
    ids, counts = pad_targets(rows, mask)
    assert (
        ids.shape
        == counts.shape
        == (3, 5, max(int(r.lengths.max()) for r in rows if len(r.lengths)))
    )
    assert torch.equal(counts.sum(-1), 8.0 * mask)
    share = torch.zeros(3, 5, 30).scatter_add_(-1, ids, counts / 8)
    expected = (
        (torch.special.entr(share).neg() - share * student.log_softmax(-1)).sum(-1)[mask].mean()
    )
    torch.testing.assert_close(sampled_kl(student, ids, counts, mask), expected)
    with pytest.raises(CorruptArtifact, match="number of positions"):
        pad_targets(rows[::-1], mask)
    empty_ids, _ = pad_targets(rows[1:2], mask[1:2])
    assert empty_ids.shape == (1, 5, 1)
