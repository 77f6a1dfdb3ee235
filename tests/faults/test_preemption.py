"""A signal makes a training stage save and leave with the documented code; the same command resumes
to the same bytes."""

from __future__ import annotations

import signal

import pytest

from pipeline.errors import EXIT_REQUEUE
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name
)
def test_a_signal_saves_and_the_run_continues_from_there(
    number: signal.Signals, finished_run: TinyRun, cached_run: TinyRun
) -> None:
    # Saved by the signal alone: the steps between two checkpoints are more than the run has.
    process = cached_run.logging("distill", "distill/student", 3, "distill.save_every=1000")
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == EXIT_REQUEUE, errors
    assert "run the same command again to continue" in errors
    assert list(cached_run.run.glob("distill/student/checkpoints/step-*/complete.json"))
    assert not (cached_run.run / "distill/student/hf").exists()
    cached_run.complete("distill")
    assert cached_run.hashes("distill") == finished_run.hashes("distill")
