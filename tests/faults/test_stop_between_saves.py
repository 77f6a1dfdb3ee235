"""A signal outside the training loop ends a stage at once with the documented code; the same
command goes on."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from pipeline.errors import EXIT_REQUEUE
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_while_caching(
    number: signal.Signals, finished_run: TinyRun, few_documents: Path, tmp_path: Path
) -> None:
    run = TinyRun(tmp_path, few_documents)
    for name in ("tokens", "distill/teacher"):
        shutil.copytree(finished_run.run / name, run.run / name)
    process = run.start("cache_teacher")
    cache = run.run / "teacher_cache/teacher"
    deadline = time.monotonic() + 120
    while not (cache / "shards/00000.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_REQUEUE, errors
    assert f"stopped: by {number.name}; run the same command again to continue" in errors
    assert not (cache / "manifest.json").exists()
    run.complete("cache_teacher")
    assert run.hashes("cache_teacher") == finished_run.hashes("cache_teacher")
