"""Top-k targets: the right tokens, probabilities within the rounding of float16, and the tail's
mass kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ArtifactError
from pipeline.objectives.logits import topk_kl
from pipeline.teacher import topk
from pipeline.teacher.topk import top_k_probabilities, top_k_targets


def randn(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    vocabulary=st.sampled_from([1, 5, 300]),
    share=st.floats(0.01, 1.0),
    scale=st.sampled_from([0.0, 0.3, 3.0, 40.0]),
    chunk=st.sampled_from([1, 1 << 17]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_probabilities_and_tail(
    vocabulary: int, share: float, scale: float, chunk: int, dtype: torch.dtype
) -> None:
    k = max(1, int(share * vocabulary))
    logits = randn(2, 3, vocabulary, seed=k, scale=scale).to(dtype)
    exact = logits.double().softmax(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "_CHUNK_CPU", chunk)
        found = top_k_targets(logits, k)
    assert (found.ids.shape, found.log_probs.shape, found.log_tail.shape) == (
        (2, 3, k),
        (2, 3, k),
        (2, 3),
    )
    assert (found.ids.dtype, found.log_probs.dtype, found.log_tail.dtype) == (
        torch.uint16,
        torch.float16,
        torch.float32,
    )
    ids = found.ids.long()
    # The most probable, and among equals those with the lowest ids.
    order = logits.double().sort(dim=-1, descending=True, stable=True).indices[..., :k]
    assert torch.equal(ids, order)
    top = exact.gather(-1, ids)
    log_error = (found.log_probs.double() - top.log()).abs()
    assert (log_error <= top.log().abs() * 2**-11 + 1e-5).all()
    tail = exact.scatter(-1, ids, 0.0).sum(-1)
    torch.testing.assert_close(found.log_tail.double().exp(), tail, rtol=1e-4, atol=1e-30)
    read_ids, p = top_k_probabilities(found)
    assert read_ids.dtype == torch.int64
    assert p.dtype == torch.float32
    torch.testing.assert_close(1 - p.double().sum(-1), tail, rtol=1e-3, atol=1e-6)
    # float16 leaves each log-probability off by 2^-11 of its size; scaling can double that.
    seen = top > 1e-30  # float32 holds little below
    assert (
        ((p / top).log().abs() <= 2 * top.log().abs().amax(-1, keepdim=True) * 2**-11 + 1e-5)
        | ~seen
    ).all()


@pytest.mark.parametrize("vocabulary", [1600, 1601, 5000])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_in_a_large_vocabulary_with_many_equals_the_lowest_ids_come_first(
    vocabulary: int, levels: int
) -> None:
    logits = (randn(6, vocabulary, seed=vocabulary) * levels).round() / levels
    logits[0, 7 : vocabulary // 2] = -torch.inf
    logits[1] = 0.0
    for k in (1, 5, 49, 50, 51):
        order = logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]
        assert torch.equal(top_k_targets(logits, k).ids.long(), order)


def test_a_small_tail_keeps_its_mass() -> None:
    """The tail here is a hundredth of the rounding error that the float16 probabilities make
    together."""
    logits = torch.cat([randn(1, 20, seed=0), torch.full((1, 30), -15.0)], -1)
    found = top_k_targets(logits, 20)
    tail = logits.double().softmax(-1)[:, 20:].sum(-1)
    assert abs(1 - found.log_probs.double().exp().sum()) > 10 * tail
    torch.testing.assert_close(
        1 - top_k_probabilities(found)[1].double().sum(-1), tail, rtol=0.1, atol=0
    )


def test_what_is_read_back_gives_the_loss_of_what_was_there() -> None:
    teacher, student = randn(4, 200, seed=1, scale=3), randn(4, 200, seed=2)
    top = teacher.softmax(-1).topk(10)
    for tail in (True, False):
        exact = topk_kl(student, top.indices, top.values, tail=tail)
        stored = topk_kl(student, *top_k_probabilities(top_k_targets(teacher, 10)), tail=tail)
        torch.testing.assert_close(stored, exact, rtol=1e-3, atol=0)


def test_vocabularies_beyond_65536_take_32_bits_and_impossible_tokens_stay_so() -> None:
    logits = torch.full((2, 70_000), -torch.inf)
    logits[:, 69_999] = 2.0
    logits[1, 5] = 1.0
    found = top_k_targets(logits, 3)
    assert found.ids.dtype == torch.uint32
    assert found.ids.long().tolist() == [[69_999, 0, 1], [69_999, 5, 0]]
    p = top_k_probabilities(found)[1]
    torch.testing.assert_close(
        p, torch.tensor([[1.0, 0, 0], [0.7311, 0.2689, 0]]), rtol=1e-3, atol=0
    )
    assert found.log_tail.tolist() == [-torch.inf, -torch.inf]


def test_zeros_of_either_sign_are_equal() -> None:
    assert top_k_targets(torch.tensor([[-0.0, 0.0, -1.0]]), 2).ids.tolist() == [[0, 1]]


def test_what_is_wrong_is_refused() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match="k must be 1 to 4"):
            top_k_targets(torch.zeros(2, 4), k)
    for wrong in (torch.nan, torch.inf):
        logits = torch.zeros(2, 4)
        logits[1, 2] = wrong
        with pytest.raises(ArtifactError, match="not finite: check its weights"):
            top_k_targets(logits, 2)
    with pytest.raises(ArtifactError, match="not finite"):
        top_k_targets(torch.full((1, 4), -torch.inf), 2)
