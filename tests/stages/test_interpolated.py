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
NARROW = ("student.d_model=16", "student.d_ff=24", "student.num_heads=1", "student.init={importance_rows: 8}")
CHAIN = (
    *NARROW,
    "interpolated.assistants=auto",
    "interpolated.original_weight={start: 1.0, end: 0.5, steps: 4}",
    "distill.save_every=2",
    "distill.log_every=1",
)


def test_a_narrow_student_starts_from_the_same_weights_on_two_ranks_and_after_a_kill(cached_run: TinyRun) -> None:
    initial = cached_run.run / "distill/student/initial/model.safetensors"
    process = subprocess.Popen(cached_run.command("distill", *NARROW), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
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
    assert (config["d_model"], config["d_ff"], config["num_heads"], config["d_kv"]) == (16, 24, 1, 16)
    card = (cached_run.run / "distill/student/hf/README.md").read_text()
    assert "the teacher's blocks (uniform), widths cut by importance" in card


def test_a_link_compares_with_the_original_teacher_too_and_a_killed_one_ends_the_same(cached_run: TinyRun) -> None:
    root = cached_run.run / "distill_interpolated"
    done = cached_run.stage("distill_interpolated", *CHAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    made = sorted(path.name for path in root.iterdir())
    assert made == ["chain", "chain.assistant-1", "chain.assistant-2"], "8.9:1 in non-embedding parameters"
    assistant, student = (Artifact(root / name) for name in ("chain.assistant-1", "chain"))
    assert set(assistant.manifest.inputs) == {"train", "validation", "cache"}
    assert set(student.manifest.inputs) == {"train", "validation", "cache", "original"}
    assert student.manifest.inputs["original"] == assistant.manifest.inputs["cache"]
    parts = ("logits", "decoder_relations", "cross_relations")
    lines = [json.loads(line) for line in (root / "chain/metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss/loss" in line]
    for step, line in enumerate(lines):
        share = 1.0 - 0.5 * min(step / 4, 1.0)
        for part in parts:
            weight = line[f"weighted/{part}"] / line[f"loss/{part}"] if share < 1.0 else 1.0
            other = line[f"weighted/original_{part}"] / line[f"loss/original_{part}"]
            assert share < 1.0 or line[f"weighted/{part}"] == 0.0
            assert other / share == pytest.approx(weight / (1.0 - share) if share < 1.0 else other / share, rel=1e-3)
        total = sum(value for name, value in line.items() if name.startswith("weighted/"))
        assert line["loss/loss"] == pytest.approx(total, rel=1e-3)
        assert line["weighted/lm"] == pytest.approx(line["loss/lm"], rel=1e-3)
    assert lines[-1]["loss/original_logits"] != lines[-1]["loss/logits"]

    again = [*CHAIN, "interpolated.name=killed"]
    for name in ("chain.assistant-1", "chain.assistant-2"):
        other = name.replace("chain", "killed")
        (root / other).symlink_to(root / name)
        caches = cached_run.run / "teacher_cache"
        (caches / other).symlink_to(caches / name)
    process = subprocess.Popen(
        cached_run.command("distill_interpolated", *again), env=ENVIRONMENT, stdout=subprocess.DEVNULL
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
    done = cached_run.stage("distill_interpolated", *again)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step 2" in done.stdout
    ours, theirs = (root / name / "hf/model.safetensors" for name in ("killed", "chain"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_a_chain_cannot_do_is_said_before_it_begins(cached_run: TinyRun) -> None:
    for overrides, words in (
        (["interpolated.original_weight=0.5", "distill.targets=online"], "needs an objective that compares"),
        (["interpolated.assistants=[{encoder_layer: 2}]"], "did you mean interpolated.assistants.0.encoder_layers?"),
        (
            ["interpolated.assistants=[{encoder_layers: 2, decoder_layers: 4}]"],
            "cannot be copied from a teacher with 3",
        ),
        (["student.init={blocks: {encoder: [0], decoder: [2]}}"], "list interpolated.assistants too"),
        (["student.params=60M", "student.scale=0.5"], "scale and params both say how large it is"),
        (["student.params=sixty"], "write a number of parameters as 60M"),
    ):
        done = cached_run.stage("distill_interpolated", *overrides)
        assert done.returncode == 2, done.stdout + done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (cached_run.run / "distill_interpolated").exists()
