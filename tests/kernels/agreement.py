"""The kernels, through the functions people call, against plain float64 forms.

Run by tests/unit/objectives/test_kernels.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.objectives import kernels
from pipeline.objectives.divergence import Divergence, Kind
from pipeline.objectives.head import Predictor, head_divergence
from pipeline.objectives.kernels import relations as relation_kernels
from pipeline.objectives.kernels import rows as row_kernels
from pipeline.objectives.logits import divergence
from pipeline.objectives.relations import relation_loss
from pipeline.objectives.scratch import chunks_of
from tests.unit.objectives import test_logits as plain_logits
from tests.unit.objectives import test_relations as plain_relations
from tests.unit.objectives.test_logits import KINDS, LABELS, MASK
from tests.unit.objectives.test_relations import KEY_MASK, QUERY_MASK, randn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: (dtype, relative error of values, error of gradients relative to the largest). Inputs are rounded
#: before the float64 form sees them. What is left is the kernels' own rounding, and for gradients
#: that of the dtype they come in.
FP32 = (torch.float32, 2e-6, 5e-6)
BF16 = (torch.bfloat16, 2e-5, 1.5e-2)
FP16 = (torch.float16, 2e-5, 2e-3)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of logits in tiles of 16, so that a small vocabulary takes several."""
    monkeypatch.setattr(row_kernels, "BLOCK", 16)
    monkeypatch.setattr(row_kernels, "GRADIENT_BLOCK", 16)


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kernels' functions as they are called.

    Without a call the test would compare PyTorch's form with itself.
    """
    made: list[str] = []

    def spy(module: object, name: str) -> None:
        original = getattr(module, name)

        def wrapped(*args: object, **kwargs: object) -> object:
            made.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapped)

    spy(relation_kernels, "value_and_gradients")
    spy(row_kernels, "values")
    spy(row_kernels, "gradient_")
    yield made
    assert made


def inputs(x: Tensor, dtype: torch.dtype, grad: bool = False) -> tuple[Tensor, Tensor]:
    """Return x in `dtype` on the device and in float64, each with a gradient of its own."""
    low = x.detach().to(DEVICE, dtype)
    return low.requires_grad_(grad), low.detach().cpu().double().requires_grad_(grad)


def on_device(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.to(DEVICE)


def same(
    ours: Tensor, plain: Tensor, pairs: list[tuple[Tensor, Tensor]], value: float, gradient: float
) -> None:
    assert ours.dtype == torch.float32
    assert plain > 1e-3
    torch.testing.assert_close(ours.detach().cpu().double(), plain.detach(), rtol=value, atol=0)
    (ours * 1.7).backward()
    (plain * 1.7).backward()
    for mine, theirs in pairs:
        assert mine.grad is not None
        assert mine.grad.dtype == mine.dtype
        assert theirs.grad is not None
        error = (mine.grad.cpu().double() - theirs.grad).abs().max() / theirs.grad.abs().max()
        assert error < gradient


@pytest.mark.parametrize(
    ("precision", "causal", "masked", "pair"),
    [
        (FP32, causal, masked, pair)
        for causal in (False, True)
        for masked in (False, True)
        for pair in ("qk", "qq")
    ]
    + [(low, True, True, "qk") for low in (BF16, FP16)]
    + [(low, False, False, "qq") for low in (BF16, FP16)],
)
def test_relations(
    precision: tuple[torch.dtype, float, float], causal: bool, masked: bool, pair: str
) -> None:
    """Two relation heads of 12 and of 20: neither is a power of two.

    The lengths take several tiles, the last not full.
    """
    dtype, value, gradient = precision
    length = 70
    masks: tuple[Tensor | None, Tensor | None] = (None, None)
    if masked:
        # 16 times as long: a row's first tile may be hidden whole. One sequence has no valid row.
        masks = tuple(
            m.repeat_interleave(16, 1)[:, :length].contiguous() for m in (QUERY_MASK, KEY_MASK)
        )  # type: ignore[assignment]
    ta, tb = (inputs(randn(3, length, 40, seed=i), dtype) for i in (1, 2))
    sa, sb = (inputs(randn(3, length, 24, seed=i), dtype, grad=True) for i in (3, 4))
    if pair == "qq":
        tb, sb = ta, sa
    ours = relation_loss(
        (ta[0], tb[0]),
        (sa[0], sb[0]),
        relation_heads=2,
        query_mask=on_device(masks[0]),
        key_mask=on_device(masks[1]),
        causal=causal,
    )
    plain = plain_relations.reference((ta[1], tb[1]), (sa[1], sb[1]), 2, *masks, causal)
    same(ours, plain, [sa] if pair == "qq" else [sa, sb], value, gradient)


def test_relations_of_other_lengths_layouts_and_dtypes() -> None:
    """Cross-attention's lengths, a student sliced out of a fused projection, mixed dtypes.

    The teacher is in bf16, the student in fp32.
    """
    ta, tb = (
        inputs(randn(2, 19, 8, seed=1), torch.bfloat16),
        inputs(randn(2, 33, 8, seed=2), torch.bfloat16),
    )
    a, b = (
        inputs(randn(2, 19, 24, seed=3), torch.float32, True),
        inputs(randn(2, 33, 24, seed=4), torch.float32, True),
    )
    mask = torch.ones(2, 33)
    mask[0, 20:] = 0
    ours = relation_loss(
        (ta[0], tb[0]),
        (a[0][..., 8:16], b[0][..., 16:]),
        relation_heads=2,
        key_mask=on_device(mask),
    )
    plain = plain_relations.reference(
        (ta[1], tb[1]), (a[1][..., 8:16], b[1][..., 16:]), 2, None, mask
    )
    same(ours, plain, [a, b], 2e-6, 5e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_no_relation(causal: bool) -> None:
    t, s = randn(2, 20, 6, seed=1).float().to(DEVICE), randn(2, 20, 6, seed=2).float().to(DEVICE)
    mask = torch.ones(2, 20, device=DEVICE)
    mask[1, 7:] = 0

    def pad(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 15), value=300.0)

    long_mask = F.pad(mask, (0, 15))
    short, long = (
        relation_loss((a, a), (b, b), relation_heads=3, query_mask=m, key_mask=m, causal=causal)
        for a, b, m in ((t, s, mask), (pad(t), pad(s), long_mask))
    )
    unmasked = relation_loss((pad(t),) * 2, (pad(s),) * 2, relation_heads=3, causal=causal)
    torch.testing.assert_close(long, short, rtol=1e-6, atol=0)
    assert abs(unmasked - short) > 1e-3


@pytest.mark.parametrize("causal", [False, True])
def test_huge_bf16_relations_stay_finite(causal: bool) -> None:
    t = (randn(2, 6, 8, seed=1).sign() * 1e4).bfloat16().to(DEVICE)
    a = (randn(2, 6, 8, seed=2).sign() * 1e4).bfloat16().to(DEVICE).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], device=DEVICE)
    loss = relation_loss((t, t), (a, a), relation_heads=2, key_mask=mask, causal=causal)
    loss.backward()
    exact = plain_relations.reference(
        (t.cpu().double(),) * 2, (a.detach().cpu().double(),) * 2, 2, None, mask, causal
    )
    torch.testing.assert_close(loss.detach().cpu().double(), exact, rtol=1e-6, atol=0)
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_relations_that_teach_nothing() -> None:
    """No valid key anywhere, a single row, and a student that is its teacher.

    Value and gradients are 0 to the last bit.
    """
    t, s = randn(2, 3, 4, seed=1).float().to(DEVICE), randn(2, 3, 4, seed=2).float().to(DEVICE)
    for teacher, student, mask in (
        (t, s, torch.zeros(2, 3, device=DEVICE)),
        (t[:, :1], s[:, :1], None),
        (t, t.clone(), None),
    ):
        leaf = student.detach().requires_grad_()
        loss = relation_loss((teacher, teacher), (leaf, leaf), relation_heads=2, key_mask=mask)
        loss.backward()
        assert loss.item() == 0.0
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()


def test_relations_without_gradients(calls: list[str]) -> None:
    t, s = randn(1, 5, 4, seed=1).float().to(DEVICE), randn(1, 5, 4, seed=2).float().to(DEVICE)
    alone = relation_loss((t, t), (s, s), relation_heads=2)
    tracked = relation_loss((t, t), (s.requires_grad_(), s), relation_heads=2)
    assert alone == tracked
    assert calls == ["value_and_gradients"] * 2


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("mask", "tau", "share"), [(None, 1.0, 1.0), (MASK, 2.5, 0.4)], ids=["plain", "masked-taid"]
)
@pytest.mark.parametrize("precision", [FP32, BF16, FP16], ids=["fp32", "bf16", "fp16"])
def test_divergence(
    kind: Kind,
    mask: Tensor | None,
    tau: float,
    share: float,
    precision: tuple[torch.dtype, float, float],
) -> None:
    dtype, value, gradient = precision
    s = inputs(randn(2, 3, 41, seed=1, scale=2), dtype, grad=True)
    t = inputs(randn(2, 3, 41, seed=2, scale=2), dtype)
    settings = Divergence(kind, 0.3, tau)
    ours = divergence(s[0], t[0], on_device(mask), settings, target_share=share)
    target = (1 - share) * s[1].detach() + share * t[1]
    same(ours, plain_logits.reference(s[1], target, mask, kind, tau, 0.3), [s], value, gradient)


def test_divergence_of_a_real_vocabulary() -> None:
    s = inputs(randn(3, 10_007, seed=1, scale=2), torch.float32, grad=True)
    t = inputs(randn(3, 10_007, seed=2, scale=2), torch.float32)
    same(
        divergence(s[0], t[0]),
        plain_logits.reference(s[1], t[1], None, "forward_kl", 1.0, 0),
        [s],
        2e-6,
        5e-6,
    )


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [None, 0.0])
def test_huge_bf16_logits_stay_finite_and_masked_ones_unread(
    kind: Kind, alpha: float | None
) -> None:
    if kind == "jensen_shannon":
        alpha = None
    s = (randn(5, 64, seed=1).sign() * 1e4).bfloat16().to(DEVICE)
    t = (randn(5, 64, seed=2).sign() * 1e4).bfloat16().to(DEVICE)
    mask = torch.tensor([1, 1, 0, 1, 1], device=DEVICE)
    s[2], t[2] = float("nan"), float("inf")
    s.requires_grad_()
    loss = divergence(s, t, mask, Divergence(kind, alpha))
    loss.backward()
    assert loss.isfinite()
    assert loss > 0.1
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert (s.grad[2] == 0).all()
    assert (s.grad[0] != 0).any()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tau", "share"), [(1.0, 1.0), (1.5, 0.4)])
def test_head(kind: Kind, tau: float, share: float) -> None:
    dtype, value, gradient = FP32
    h, w, b = (
        inputs(randn(*shape, seed=i), dtype, grad=True)
        for i, shape in enumerate([(2, 3, 4), (37, 4), (37,)])
    )
    th, tw = (
        inputs(randn(*shape, seed=i + 3), dtype) for i, shape in enumerate([(2, 3, 5), (37, 5)])
    )
    with chunks_of(4 * 37):
        div, lm = head_divergence(
            Predictor(h[0], w[0], 0.7, b[0]),
            Predictor(th[0], tw[0], 0.5),
            Divergence(kind, 0.3, tau),
            mask=MASK.to(DEVICE),
            labels=LABELS.to(DEVICE),
            target_share=share,
        )
    s = h[1] @ w[1].T * 0.7 + b[1]
    target = (1 - share) * s.detach() + share * th[1] @ tw[1].T * 0.5
    plain_div = plain_logits.reference(s, target, MASK, kind, tau, 0.3)
    plain_lm = F.cross_entropy(s.view(-1, 37), LABELS.view(-1))
    torch.testing.assert_close(div.detach().cpu().double(), plain_div.detach(), rtol=5e-6, atol=0)
    same(0.3 * div + 2 * lm, 0.3 * plain_div + 2 * plain_lm, [h, w, b], value, gradient)


def test_what_the_kernels_leave_to_pytorch(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    t, s = (randn(1, 5, 600, seed=i).to(DEVICE) for i in (1, 2))

    def loss(heads: int, dtype: torch.dtype = torch.float32) -> Tensor:
        a, b = t.to(dtype), s.to(dtype)
        return relation_loss((a, a.flip(2)), (b, b.flip(2)), relation_heads=heads)

    assert not kernels.usable(t)
    assert kernels.usable(t.float(), s.bfloat16())
    wide, double = loss(2), loss(2, torch.float64)  # heads of 300 do not fit on the chip
    monkeypatch.setenv(kernels.SWITCH, "0")
    off = loss(3)
    assert calls == []
    monkeypatch.delenv(kernels.SWITCH)
    on = loss(3)
    assert calls == ["value_and_gradients"]
    torch.testing.assert_close(wide.double(), double, rtol=1e-5, atol=0)
    torch.testing.assert_close(on, off, rtol=1e-5, atol=0)
