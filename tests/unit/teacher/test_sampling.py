"""Draws from the teacher: right in distribution, and the same bits however the positions are
batched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from pipeline.errors import ArtifactError
from pipeline.objectives.logits import divergence, sampled_kl
from pipeline.teacher import sampling
from pipeline.teacher.codec import count_draws, pad_targets
from pipeline.teacher.sampling import Method, sample_targets, uniforms

#: Written down: a change of numpy, of the key or of the table would silently change what a rebuilt
#: shard holds.
KNOWN = [0.20997138603676868, 0.18211639165508242]
KNOWN_IDS = [
    [100, 106, 119, 152, 239],
    [73, 264, 508, 561, 574],
    [291, 330, 337, 562, 574],
    [192, 252, 423, 463, 548],
]

METHODS: list[Method] = ["independent", "systematic"]


def randn(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def histogram(
    logits: torch.Tensor, draws: int, temperature: float = 1.0, method: Method = "independent"
) -> torch.Tensor:
    """Counts of each token over all positions, which share `logits` (vocabulary,)."""
    positions = 400
    u = uniforms(1, 2, 3, positions, draws, method)
    ids = sample_targets(logits.expand(positions, -1), u, temperature)
    return torch.bincount(ids.flatten(), minlength=len(logits))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    "logits",
    [randn(40, seed=0, scale=2), torch.zeros(300), -torch.arange(1.0, 700.0).log()],
    ids=["random", "flat", "zipf"],
)
def test_independent_draws_pass_a_chi_square_test(logits: torch.Tensor, temperature: float) -> None:
    """20,000 draws; tokens expected under 5 times are one class. The level is 1e-4, and the seed is
    fixed."""
    found = histogram(logits, 50, temperature).double()
    expected = (logits.double() / temperature).softmax(0) * 20_000
    common = expected >= 5
    found, expected = (torch.cat([x[common], x[~common].sum().view(1)]) for x in (found, expected))
    keep = expected > 0
    statistic = ((found - expected)[keep] ** 2 / expected[keep]).sum().item()
    assert statistic < chi2.isf(1e-4, int(keep.sum()) - 1)
    assert statistic > chi2.ppf(1e-4, int(keep.sum()) - 1)  # nor too good to be random


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_many_draws_is_the_softmax(method: Method) -> None:
    """Within five standard errors; a systematic count only varies by the fraction in its
    expectation."""
    logits = randn(64, seed=3, scale=2)
    p = logits.double().softmax(0)
    fraction = (50 * p) % 1
    variance = 50 * p * (1 - p) if method == "independent" else fraction * (1 - fraction)
    error = (histogram(logits, 50, method=method) / 20_000 - p).abs()
    assert (error <= 5 * (variance / 400).sqrt() / 50 + 1e-4 * p).all()


def test_systematic_counts_are_within_one_of_their_expectation() -> None:
    logits = randn(200, 50, seed=4, scale=3)
    ids = sample_targets(logits, uniforms(0, 0, 0, 200, 50, "systematic"))
    counts = torch.zeros(200, 50, dtype=torch.float64).scatter_add_(
        1, ids, torch.ones_like(ids).double()
    )
    assert ((counts - 50 * logits.double().softmax(-1)).abs() < 1.01).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_many_draws_is_that_of_the_full_kl(method: Method) -> None:
    teacher, student = randn(1, 12, seed=5, scale=2), randn(1, 12, seed=6).requires_grad_()
    repeats = 5000
    drawn = count_draws(
        sample_targets(teacher.expand(repeats, -1), uniforms(0, 0, 0, repeats, 4, method))
    )
    ids, counts = pad_targets([drawn], torch.ones(1, repeats))
    (ours,) = torch.autograd.grad(sampled_kl(student.expand(1, repeats, -1), ids, counts), student)
    (full,) = torch.autograd.grad(divergence(student, teacher), student)
    assert (ours - full).norm() < 0.015 * full.norm()


@settings(max_examples=30, deadline=None)
@given(
    vocabulary=st.sampled_from([1, 2, 255, 256, 257, 1000]),
    draws=st.integers(1, 60),
    chunk=st.sampled_from([1, 700, 1 << 17]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_ids_depend_on_the_position_alone(
    vocabulary: int, draws: int, chunk: int, seed: int, dtype: torch.dtype
) -> None:
    logits = randn(9, vocabulary, seed=seed, scale=3).to(dtype)
    u = uniforms(seed, 1, 2, 9, draws)
    whole = sample_targets(logits, u)
    assert whole.shape == (9, draws)
    assert (whole.diff(dim=1) >= 0).all()
    assert whole.min() >= 0
    assert whole.max() < vocabulary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_CHUNK_CPU", chunk)
        assert torch.equal(
            torch.cat([sample_targets(logits[i : i + 4], u[i : i + 4]) for i in (0, 4, 8)]), whole
        )
    # Strides, order of draws and a constant added to the logits (here one that is exact) make no
    # difference either.
    strided = torch.stack([logits, logits], -1)[..., 0]
    assert torch.equal(sample_targets(strided, u.flip(1)), whole)


def test_uniforms_are_known_numbers_that_only_depend_on_where_they_stand() -> None:
    few, many = uniforms(7, 1, 2, 3, 5), uniforms(7, 1, 2, 30, 5)
    assert torch.equal(many[:3], few)
    assert few.dtype == torch.float64
    assert ((many >= 0) & (many < 1)).all()
    others = [uniforms(8, 1, 2, 3, 5), uniforms(7, 2, 2, 3, 5), uniforms(7, 1, 3, 3, 5)]
    assert not any(torch.equal(other, few) for other in others)
    assert few[0, :2].tolist() == KNOWN
    systematic = uniforms(7, 1, 2, 3, 5, "systematic")
    torch.testing.assert_close(systematic.diff(dim=1), torch.full((3, 4), 0.2, dtype=torch.float64))


def test_known_draws() -> None:
    """Integers and correctly rounded products alone decide, so these hold on every machine."""
    logits = (torch.arange(4 * 600).view(4, 600) * 7919 % 1009).float() / 128
    assert sample_targets(logits, uniforms(7, 1, 2, 4, 5), temperature=0.7).tolist() == KNOWN_IDS


@pytest.mark.parametrize("temperature", [1e-3, 1.0])
def test_one_hot_and_impossible_tokens(temperature: float) -> None:
    logits = torch.full((3, 500), -torch.inf)
    logits[0, 499] = logits[1, 0] = logits[2, 256] = -3e38
    u = torch.tensor([0.0, 0.3, 1 - 2**-53], dtype=torch.float64).expand(3, -1)
    assert sample_targets(logits, u, temperature).tolist() == [[499] * 3, [0] * 3, [256] * 3]
    assert sample_targets(torch.eye(3) * 1e30, u[:, :1], temperature).tolist() == [[0], [1], [2]]
    assert sample_targets(torch.zeros(1, 1), u[:1]).tolist() == [[0, 0, 0]]


def test_the_ends_of_the_unit_interval_are_the_first_and_last_tokens() -> None:
    u = torch.tensor([[0.0, 0.25, 0.5, 1 - 2**-53]], dtype=torch.float64)
    assert sample_targets(torch.zeros(1, 4), u).tolist() == [[0, 1, 2, 3]]
    large = torch.zeros(1, 1 << 20)
    assert sample_targets(large, u).tolist() == [[0, 1 << 18, 1 << 19, (1 << 20) - 1]]


def test_what_cannot_be_drawn_from_is_refused() -> None:
    u = uniforms(0, 0, 0, 2, 3)
    for wrong in (torch.nan, torch.inf):
        logits = torch.zeros(2, 4)
        logits[1, 2] = wrong
        with pytest.raises(ArtifactError, match="not finite: check its weights"):
            sample_targets(logits, u)
    with pytest.raises(ArtifactError, match="not finite"):
        sample_targets(torch.full((2, 4), -torch.inf), u)
    with pytest.raises(ValueError, match="same positions"):
        sample_targets(torch.zeros(3, 4), u)
    with pytest.raises(ValueError, match="temperature"):
        sample_targets(torch.zeros(2, 4), u, 0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same() -> None:
    logits = randn(64, 32_128, seed=0, scale=3)
    u = uniforms(0, 0, 0, 64, 50)
    for dtype in (torch.float32, torch.bfloat16):
        ours = sample_targets(logits.to(dtype), u, 0.9)
        assert torch.equal(sample_targets(logits.to(dtype).cuda(), u, 0.9).cpu(), ours)
