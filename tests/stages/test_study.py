"""The study of objectives, end to end on two paths: `python -m benchmarks.study --quick`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tiny_run import ENVIRONMENT, PYTHON, REPOSITORY

pytestmark = pytest.mark.slow


def _study(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "benchmarks.study", "--quick", "--run", str(run), *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )


def test_two_paths_are_distilled_fine_tuned_and_compared_and_what_is_lost_is_made_again(
    tmp_path: Path,
) -> None:
    done = _study(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "results" / "study.json").read_text())
    paths = record["groups"]["quick"]["paths"]
    scratch, distilled = paths["half-lm-random"], paths["half-decoder_cross_logits-layers"]
    assert distilled["lm_loss"]["mean"] < scratch["lm_loss"]["mean"]
    assert distilled["flops_per_step"] > scratch["flops_per_step"]
    for path in (scratch, distilled):
        assert set(path["tasks"]) == {"topic", "sentiment"}
    page = (tmp_path / "results" / "study.md").read_text()
    assert f"{distilled['lm_loss']['mean']:.4f}" in page
    assert (tmp_path / "results" / "images" / "study-quick.svg").read_text().startswith("<svg")

    unit = "half-decoder_cross_logits-layers-seed_0"
    kept = tmp_path / "students" / "distill" / "half-lm-random-seed_0" / "manifest.json"
    before = kept.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "students" / "distill" / unit)
    again = _study(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 of 2 students" in again.stdout
    assert kept.stat().st_mtime_ns == before
    made_again = json.loads((tmp_path / "results" / "study.json").read_text())["units"]
    for name, found in record["units"].items():
        assert made_again[name]["curve"] == found["curve"]
        assert made_again[name]["scores"] == found["scores"]
