"""Gradients that are not finite: the step is skipped and counted; too many in a row stop the run
with finite weights saved."""

from __future__ import annotations

import json
import math

import pytest

from tests.poison import poison
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow


def test_one_bad_row_costs_one_step(cached_run: TinyRun) -> None:
    for shard in range(4):
        poison(cached_run.run / "teacher_cache/teacher", shard)
    done = cached_run.stage(
        "distill", "distill.max_steps=60", "distill.log_every=1", "distill.save_every=60"
    )
    assert done.returncode == 0, done.stderr
    skipped = done.stdout.count("skipped, its gradient is not finite")
    assert 1 <= skipped <= 4
    records = [
        json.loads(line)
        for line in (cached_run.run / "distill/student/metrics.jsonl").read_text().splitlines()
    ]
    assert max(record.get("train/skipped_steps", 0) for record in records) == skipped
    assert all(math.isfinite(value) for record in records for value in record.values())
    assert "validation LM loss" in done.stdout


def test_many_in_a_row_stop_the_run_with_its_state_saved(cached_run: TinyRun) -> None:
    done = cached_run.stage(
        "distill",
        "distill.learning_rate=1.0e+30",
        "distill.max_skipped_steps=3",
        "distill.warmup_steps=0",
    )
    assert done.returncode == 2, done.stdout
    assert "the gradients of 3 steps in a row were not finite" in done.stderr
    assert "shard:row" in done.stderr
    assert list(cached_run.run.glob("distill/student/checkpoints/step-*/complete.json"))
    assert not (cached_run.run / "distill/student/hf").exists()
