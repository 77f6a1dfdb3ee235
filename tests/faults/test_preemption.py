"""A signal makes a training stage save and leave with the documented code; the same command resumes to the same bytes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.errors import EXIT_REQUEUE
from tests.tiny_run import ENVIRONMENT, TinyRun

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_saves_and_the_run_continues_from_there(
    number: signal.Signals, finished_run: TinyRun, few_documents: Path, tmp_path: Path
) -> None:
    run = TinyRun(tmp_path, few_documents)
    for name in ("tokens", "distill/teacher", "teacher_cache"):
        shutil.copytree(finished_run.run / name, run.run / name)
    # Saved by the signal alone: the steps between two checkpoints are more than the run has.
    command = run.command("distill", "distill.save_every=1000", "distill.log_every=1")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    metrics = run.run / "distill/student/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_REQUEUE, errors
    assert "run the same command again to continue" in errors
    assert list(run.run.glob("distill/student/checkpoints/step-*/complete.json"))
    assert not (run.run / "distill/student/hf").exists()
    run.complete("distill")
    assert run.hashes("distill") == finished_run.hashes("distill")
