"""`kill -9` in the middle of each stage, then the same command again: the same content hashes as a
run left alone."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_run import ARTIFACTS, TinyRun

pytestmark = pytest.mark.slow

_STAGES = list(ARTIFACTS)


def _appears(pattern: str) -> Callable[[Path], bool]:
    return lambda run: any(run.glob(pattern))


#: When each stage is killed: in its middle, as what it leaves on disk shows.
_MOMENTS = {
    "tokenize_corpus": [
        _appears("tokens/tokenizer/manifest.json"),
        _appears("tokens/train/shards/00001.json"),
    ],
    "teacher": [
        _appears("distill/teacher/checkpoints/step-00000003/*"),
        _appears("distill/teacher/checkpoints/*6/complete.json"),
    ],
    "cache_teacher": [
        _appears("teacher_cache/teacher/shards/00000.json"),
        _appears("teacher_cache/teacher/shards/00003.json"),
    ],
    "distill": [
        _appears("distill/student/checkpoints/*3/complete.json"),
        _appears("distill/student/checkpoints/*9/complete.json"),
    ],
    "distill_interpolated": [
        _appears("distill_interpolated/chain.assistant-1/checkpoints/*3/complete.json"),
        _appears("teacher_cache/chain.assistant-1/shards/00001.json"),
        _appears("distill_interpolated/chain/checkpoints/*3/complete.json"),
    ],
    "finetune": [
        _appears("finetune/*/topic/student/seed-0/checkpoints/*3/complete.json"),
        _appears("finetune/*/topic/student/seed-0/hf"),
    ],
}


@pytest.fixture(scope="module")
def killed_run(
    finished_run: TinyRun, few_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyRun:
    return TinyRun(tmp_path_factory.mktemp("killed"), few_documents)


@pytest.mark.parametrize("stage", _STAGES)
def test_killed_anywhere_the_result_is_the_same(
    stage: str, finished_run: TinyRun, killed_run: TinyRun
) -> None:
    for before in _STAGES[: _STAGES.index(stage)]:
        if not all(
            (killed_run.run / name / "manifest.json").exists() for name in ARTIFACTS[before]
        ):
            _copy_artifacts(finished_run, killed_run, before)  # this test was chosen alone
    last = killed_run.run / ARTIFACTS[stage][-1] / "manifest.json"
    for moment in _MOMENTS[stage]:
        for _ in range(5):
            _start_and_kill(killed_run, stage, moment)
            if not last.exists():
                break
            # This process slept while that one ended: once more from the start.
            for name in ARTIFACTS[stage]:
                shutil.rmtree(killed_run.run / name)
        assert not last.exists(), "killed too late to show anything"
    killed_run.complete(stage)
    assert killed_run.hashes(stage) == finished_run.hashes(stage)
    again = killed_run.stage(stage)
    assert again.returncode == 0
    assert "up to date" in again.stdout or "1 of 1 units are finished" in again.stdout


def _start_and_kill(run: TinyRun, stage: str, moment: Callable[[Path], bool]) -> None:
    process = run.start(stage)
    deadline = time.monotonic() + 180
    while not moment(run.run):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(
                f"{stage} never came to the moment of its death:\n{process.communicate()[0]}"
            )
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _copy_artifacts(source: TinyRun, target: TinyRun, stage: str) -> None:
    for name in ARTIFACTS[stage]:
        shutil.copytree(source.run / name, target.run / name, dirs_exist_ok=True)
