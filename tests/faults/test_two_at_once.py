"""The same command started twice: training refuses in one line, the other stages share the work; a
dead holder blocks nobody."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.kills import verified_hashes
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow


def test_a_second_training_is_refused_and_the_first_is_not_disturbed(
    finished_run: TinyRun, run_of: Callable[..., TinyRun]
) -> None:
    run = run_of("distill")
    first = run.logging("distill", "distill/student", 2)
    first.send_signal(signal.SIGSTOP)
    second = run.stage("distill")
    assert first.poll() is None, "the first was over before it was stopped"
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1, second.stderr
    assert f"distill/student is being written by process {first.pid} on " in second.stderr
    first.communicate(120)
    assert first.returncode == 0
    assert verified_hashes(run, "distill") == verified_hashes(finished_run, "distill")


def test_one_killed_with_its_lock_blocks_nobody(
    finished_run: TinyRun, run_of: Callable[..., TinyRun]
) -> None:
    run = run_of("distill")
    first = run.logging("distill", "distill/student", 2)
    first.kill()
    first.wait()
    assert (run.run / "distill/student/.lock").read_text().startswith(f"process {first.pid} ")
    run.complete("distill")
    assert verified_hashes(run, "distill") == verified_hashes(finished_run, "distill")


@pytest.mark.parametrize("stage", ["tokenize_corpus", "cache_teacher"])
def test_two_that_make_the_same_shards(
    stage: str, finished_run: TinyRun, run_of: Callable[..., TinyRun]
) -> None:
    for delay in (0.0, 0.3):
        run = run_of(stage)
        processes = []
        for _ in range(2):
            processes.append(run.start(stage))
            time.sleep(delay)
        for process in processes:
            _, errors = process.communicate(120)
            assert process.returncode == 0, errors
        assert verified_hashes(run, stage) == verified_hashes(finished_run, stage)
