"""A disk that is full or read-only: one clear line and nothing torn.

The same command goes on once there is room.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.kills import verified_hashes
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow

_SIZE = 16 * 2**20
_WRITES = {
    "tokenize_corpus": "tokens",
    "cache_teacher": "teacher_cache",
    "distill": "distill",
    "finetune": "finetune",
}


@pytest.fixture
def run_on(run_of: Callable[..., TinyRun], small_disk: Path) -> Callable[[str], TinyRun]:
    """Return a function that makes a run whose stage writes to the small disk."""

    def make(stage: str) -> TinyRun:
        run = run_of(stage)
        parent = run.run / _WRITES[stage]
        if parent.exists():  # other directories next to the output stay where they are
            for entry in parent.iterdir():
                (small_disk / entry.name).symlink_to(
                    entry.rename(run.root / entry.name), target_is_directory=True
                )
            parent.rmdir()
        parent.symlink_to(small_disk, target_is_directory=True)
        return run

    return make


def _one_line(errors: str) -> str:
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("stage", "room"),
    [
        ("tokenize_corpus", 60_000),  # for the tokenizer, and not for every shard
        ("distill", 1_800_000),  # for the first checkpoint or two
        ("finetune", 1_800_000),
    ],
)
def test_full(
    stage: str, room: int, finished_run: TinyRun, run_on: Callable[[str], TinyRun], small_disk: Path
) -> None:
    run = run_on(stage)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(_SIZE - room))
    done = run.stage(stage)
    assert done.returncode == 2, done.stdout + done.stderr
    line = _one_line(done.stderr)
    assert "free some space" in line
    assert "run the same command again" in line
    ballast.unlink()
    again = run.stage(stage)
    assert again.returncode == 0, again.stderr
    assert verified_hashes(run, stage) == verified_hashes(finished_run, stage)


@pytest.mark.parametrize("stage", list(_WRITES))
def test_read_only(
    stage: str, finished_run: TinyRun, run_on: Callable[[str], TinyRun], small_disk: Path
) -> None:
    run = run_on(stage)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    line = _one_line(run.stage(stage).stderr)
    assert "Read-only file system" in line
    assert "`run`" in line
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert run.stage(stage).returncode == 0
    assert verified_hashes(run, stage) == verified_hashes(finished_run, stage)
