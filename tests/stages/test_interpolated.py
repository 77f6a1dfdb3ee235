"""Chains and narrower students through the real stages."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from pipeline.artifacts import Artifact
from tests.tiny_run import ENVIRONMENT, PYTHON, TinyRun

pytestmark = pytest.mark.slow

#: Of a teacher with 3+3 blocks, d_model 32, d_ff 64 and 2 heads.
NARROW = (
    "student.d_model=16",
    "student.d_ff=24",
    "student.num_heads=1",
    "student.init={importance_rows: 8}",
)
CHAIN = (
    *NARROW,
    "interpolated.name=mixed",
    "interpolated.assistants="
    "[{encoder_layers: 2, decoder_layers: 2, d_model: 24, d_ff: 40, num_heads: 1}]",
    "interpolated.original_weight={start: 1.0, end: 0.5, steps: 4}",
    "distill.save_every=2",
    "distill.log_every=1",
)


def test_a_narrow_student_starts_from_the_same_weights_on_two_ranks_and_after_a_kill(
    cached_run: TinyRun,
) -> None:
    initial = cached_run.run / "distill/student/initial/model.safetensors"
    process = subprocess.Popen(
        cached_run.command("distill", *NARROW), env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not initial.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    first = initial.read_bytes()
    initial.parent.rename(initial.parent.with_name("before"))
    two = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*two, *cached_run.command("distill", *NARROW)[1:]],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert initial.read_bytes() == first
    config = json.loads((cached_run.run / "distill/student/hf/config.json").read_text())
    assert (config["d_model"], config["d_ff"], config["num_heads"], config["d_kv"]) == (
        16,
        24,
        1,
        16,
    )
    card = (cached_run.run / "distill/student/hf/README.md").read_text()
    assert "the teacher's blocks (uniform), widths cut by importance" in card


def test_a_link_compares_with_the_original_teacher_too_and_a_killed_one_ends_the_same(
    cached_run: TinyRun,
) -> None:
    root = cached_run.run / "distill_interpolated"
    done = cached_run.stage("distill_interpolated", *CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assistant, student = (Artifact(root / name) for name in ("mixed.assistant-1", "mixed"))
    assert set(assistant.manifest.inputs) == {"train", "validation", "cache"}
    assert set(student.manifest.inputs) == {"train", "validation", "cache", "original"}
    assert student.manifest.inputs["original"] == assistant.manifest.inputs["cache"]
    lm_weight = 1.0
    parts = ("logits", "decoder_relations", "cross_relations")
    lines = [json.loads(line) for line in (root / "mixed/metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss/loss" in line]
    assert len(lines) == 6
    for step, line in enumerate(lines):
        share = 1.0 - 0.5 * min(step / 4, 1.0)
        for part in parts:
            ours, other = (
                line[f"weighted/{name}"] / line[f"loss/{name}"]
                for name in (part, f"original_{part}")
            )
            assert other / (ours + other) == pytest.approx(share, rel=1e-3)
        total = sum(value for name, value in line.items() if name.startswith("weighted/"))
        assert line["loss/loss"] == pytest.approx(total, rel=1e-3)
        assert line["weighted/lm"] / line["loss/lm"] == pytest.approx(lm_weight, rel=1e-3)
    assert lines[-1]["loss/original_logits"] != lines[-1]["loss/logits"]

    again = [*CHAIN, "interpolated.name=killed"]
    for place in (root, cached_run.run / "teacher_cache"):
        (place / "killed.assistant-1").symlink_to(place / "mixed.assistant-1")
    process = subprocess.Popen(
        cached_run.command("distill_interpolated", *again),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(root.glob("killed/checkpoints/*2/complete.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (root / "killed/manifest.json").exists()
    newest = max(
        int(path.parent.name.removeprefix("step-"))
        for path in root.glob("killed/checkpoints/*/complete.json")
    )
    done = cached_run.stage("distill_interpolated", *again)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"resuming after step {newest}" in done.stdout
    ours, theirs = (root / name / "hf/model.safetensors" for name in ("killed", "mixed"))
    assert ours.read_bytes() == theirs.read_bytes()
