"""What the training loop watches: the best validation, patience, gradient spikes, the peak of a device, which checkpoints stay."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from pipeline.training.checkpoints import Checkpoints
from pipeline.training.convergence import Convergence
from pipeline.training.gradients import GradientNorms
from pipeline.training.peak import known_peak, measured_peak

LOSSES = [5.0, 4.0, 3.95, 3.94, 4.5, 3.5, math.nan, 3.45, 3.44]


def test_patience_counts_small_improvements_for_nothing_but_the_best_is_the_best() -> None:
    whole = Convergence(patience=3, min_delta=0.1)
    seen = []
    for step, loss in enumerate(LOSSES):
        resumed = Convergence(patience=3, min_delta=0.1)
        resumed.restore(json.loads(json.dumps(whole.state())))
        improved = whole.see(step, {"lm_loss": loss})
        assert resumed.see(step, {"lm_loss": loss}) == improved
        assert resumed.state() == whole.state()
        seen.append((improved, whole.exhausted))
    assert [improved for improved, _ in seen] == [
        True,
        True,
        True,
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    assert [stops for _, stops in seen] == [
        False,
        False,
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    assert (whole.best_step, whole.best) == (8, {"lm_loss": 3.44})


def test_a_spike_is_far_above_the_median_whenever_it_is_looked_at() -> None:
    norms = [1.0 + step % 3 / 10 for step in range(60)]
    norms[5] = norms[30] = norms[31] = 50.0
    found: list[int] = []
    at_once = GradientNorms(5.0, lambda step, norm, usual: found.append(step))
    for step, norm in enumerate(norms):
        at_once.add(step, norm)
        at_once.settle()
    assert found == [30, 31], "the one at step 5 has too few before it"
    resumed = GradientNorms(5.0, lambda *_: None)
    for step, norm in enumerate(norms):
        if step == 31:
            state = json.loads(json.dumps(resumed.state()))
            resumed = GradientNorms(5.0, lambda *_: None)
            resumed.restore(state)
        resumed.add(step, torch.tensor(norm))
    assert resumed.state()["spikes"] == at_once.spikes == 2
    assert resumed.state()["recent"] == pytest.approx(at_once.state()["recent"])


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA GeForce RTX 2080", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_the_peak_of_a_device_by_its_name(name: str, tflops: float | None) -> None:
    assert known_peak(name, torch.bfloat16) == (tflops and tflops * 1e12)
    assert known_peak(name, torch.float32) is None


def test_the_measured_peak_is_what_a_large_product_reaches() -> None:
    assert 1e9 < measured_peak(torch.device("cpu"), torch.float32) < 1e14
    assert known_peak("Tesla V100-SXM2-16GB", torch.float16) == 125e12


def test_which_checkpoints_stay(tmp_path: Path) -> None:
    def begin(step: int, identity: str, complete: bool = True) -> None:
        directory = tmp_path / f"step-{step:08d}"
        directory.mkdir()
        (directory / "begun.json").write_text(json.dumps({"identity": identity}))
        if complete:
            (directory / "complete.json").write_text(
                json.dumps({"identity": identity, "files": {}, "state": {}})
            )

    for step in (3, 6, 10, 12, 15, 18, 40):
        begin(step, "mine")
    begin(9, "mine", complete=False)
    begin(14, "other", complete=False)
    begin(17, "other")
    begin(30, "mine", complete=False)
    (tmp_path / "step-00000003.copy").mkdir()
    # As after step 18, where the run resumed from step 15 because step 40 was damaged.
    Checkpoints(tmp_path, "mine", keep=2, keep_every=5)._prune(18, best=6)
    left = sorted(path.name.removeprefix("step-").lstrip("0") for path in tmp_path.iterdir())
    assert left == sorted(["3.copy", "6", "10", "14", "15", "17", "18", "30", "40"])
