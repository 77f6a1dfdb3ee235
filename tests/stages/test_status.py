"""`miniend status` and `miniend tensorboard` on real runs, without Slurm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.tiny_run import ENVIRONMENT, PYTHON, TinyRun

pytestmark = pytest.mark.slow
#: No squeue on it, as on a machine without Slurm.
_ENVIRONMENT = {**ENVIRONMENT, "PATH": str(Path(PYTHON).parent)}


def _status(run: Path) -> dict[str, list[str]]:
    command = [PYTHON, "-m", "pipeline.cli", "status", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=_ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "\033" not in done.stdout  # plain text into a pipe
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[1:]}


@pytest.fixture
def copied(finished_run: TinyRun, few_documents: Path, tmp_path: Path) -> TinyRun:
    run = TinyRun(tmp_path, few_documents)
    shutil.copytree(finished_run.run, run.run)
    return run


def test_a_finished_run_is_complete(finished_run: TinyRun) -> None:
    status = _status(finished_run.run)
    assert {row[0] for row in status.values()} == {"complete"}
    assert status["teacher_cache/teacher"][2] == "shards"
    assert status["distill/student"][1:3] == ["12/12", "steps"]
    assert status["distill_interpolated/chain"][1:3] == ["6/6", "steps"]
    assert status["finetune/comparison/topic/student/seed-0"][1:3] == ["9/9", "steps"]


def test_interrupted_stages_tell_how_far_they_are(copied: TinyRun) -> None:
    cache = copied.run / "teacher_cache/teacher"
    total = len(json.loads((cache / "manifest.json").read_text())["shards"])
    (cache / "manifest.json").unlink()
    (cache / "shards/00003.json").unlink()
    student = copied.run / "distill/student"
    (student / "manifest.json").unlink()
    metrics = (student / "metrics.jsonl").read_text().splitlines()
    (student / "metrics.jsonl").write_text(
        "\n".join(metrics[:4]) + '\n{"step": 1'
    )  # a line cut short
    last = [json.loads(line) for line in metrics[:4] if "loss/loss" in line][-1]
    status = _status(copied.run)
    assert status["teacher_cache/teacher"][:3] == ["running", f"{total - 1}/{total}", "shards"]
    assert status["distill/student"][:2] == ["running", f"{last['step']}/12"]
    assert f"{last['loss/loss']:.3f}" in status["distill/student"]
    long_ago = time.time() - 3600
    for path in [student, *student.glob("*")]:
        os.utime(path, (long_ago, long_ago))
    assert _status(copied.run)["distill/student"][0] == "stopped"


def test_an_artifact_made_from_replaced_tokens_is_stale(copied: TinyRun) -> None:
    shutil.rmtree(copied.run / "tokens/train")
    shutil.rmtree(copied.run / "tokens/validation")
    done = copied.stage("tokenize_corpus", "tokens.input_length=48")
    assert done.returncode == 0, done.stderr
    status = _status(copied.run)
    assert status["tokens/train"][0] == "complete"
    assert status["teacher_cache/teacher"][0] == "stale"
    assert "made from another tokens/train" in " ".join(status["distill/student"])


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    command = [PYTHON, "-m", "pipeline.cli", "status", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=_ENVIRONMENT)
    assert done.returncode == 2
    assert "is not a run" in done.stderr


def test_tensorboard_shows_every_stage_by_its_name(copied: TinyRun) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hidden = copied.root / "later"
    (copied.run / "distill/student/tensorboard").rename(hidden)
    command = [
        PYTHON,
        "-m",
        "pipeline.cli",
        "tensorboard",
        str(copied.run),
        "--host=127.0.0.1",
        f"--port={port}",
    ]
    server = subprocess.Popen(
        [*command, "--reload_interval=1"], stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    expected = {
        "distill/teacher",
        "distill_interpolated/chain",
        "distill_interpolated/chain.assistant-1",
    }
    expected.add("finetune/comparison/topic/student/seed-0")
    try:
        _wait_for_runs(port, expected)
        hidden.rename(
            copied.run / "distill/student/tensorboard"
        )  # a stage that begins while TensorBoard runs
        _wait_for_runs(port, expected | {"distill/student"})
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=20)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=5)


def _wait_for_runs(port: int, expected: set[str]) -> None:
    deadline = time.monotonic() + 60
    found: set[str] = set()
    while found != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.3)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=5) as answer:
                found = set(json.loads(answer.read()))
        except OSError:
            continue
