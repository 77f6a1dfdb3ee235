"""`kill -9` at random moments of a stage, again and again, and then to its end: are the results
those of a run left alone?

Shared by the quick set (test_random_kills.py) and the long one (chaos.py). Every moment is drawn
from one seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts import Artifact
from tests.forked import Ranks, Started
from tests.tiny_run import ARTIFACTS, TinyRun

#: What each stage reads, below the run's directory.
INPUTS = {
    "tokenize_corpus": (),
    "cache_teacher": ("tokens", "distill/teacher"),
    "distill": ("tokens", "distill/teacher", "teacher_cache/teacher"),
    "distill_interpolated": ("tokens", "distill/teacher", "teacher_cache/teacher"),
    "finetune": ("distill/student",),
}
#: Stages whose bytes do not depend on the number of ranks; the others round otherwise.
_SAME_ON_ANY_RANKS = ("tokenize_corpus", "cache_teacher")
#: (stage, ranks)
Case = tuple[str, int]
CASES: tuple[Case, ...] = (
    ("tokenize_corpus", 1),
    ("tokenize_corpus", 2),
    ("cache_teacher", 1),
    ("cache_teacher", 2),
    ("distill", 1),
    ("distill", 2),
    ("distill_interpolated", 1),
    ("finetune", 1),
    ("finetune", 2),
)


@dataclass
class Tally:
    """Results of the kills of one case."""

    kills: int = 0
    #: Kills of runs that then ended in the bytes of a run left alone.
    survived: int = 0
    #: Runs that ended in other bytes, or did not end well.
    mismatches: list[str] = field(default_factory=list)
    #: Seconds from the start after the last kill to the finished artifact.
    recoveries: list[float] = field(default_factory=list)


class Killer:
    def __init__(self, finished: TinyRun, documents: Path, root: Path, seed: int) -> None:
        """finished: a run left alone, whose artifacts are the inputs and what is expected; root: an
        empty directory."""
        self.finished, self.documents, self.root = finished, documents, root
        self._random = random.Random(seed)
        self._expected: dict[Case, dict[str, str]] = {}
        #: How long a case takes from its start to its end, as last seen.
        self._seconds: dict[Case, float] = {}
        self._runs = 0

    def round(self, case: Case, kills: int, tally: Tally) -> None:
        """Start a stage afresh, kill it up to `kills` times, let it finish and compare.

        The kills are fewer if the stage ends before.
        """
        expected = self._expectation(case)
        run = self._new_run(case[0])
        killed = 0
        began = time.monotonic()
        while killed < kills:
            began = time.monotonic()
            if not self._start_and_kill(case, run):
                break
            killed += 1
        else:
            began = time.monotonic()
            self._finish(case, run, tally)
        tally.recoveries.append(time.monotonic() - began)
        tally.kills += killed
        found = verified_hashes(run, case[0]) if _ended(run, case[0]) else {}
        if found == expected:
            tally.survived += killed
            shutil.rmtree(run.root)
        else:
            tally.mismatches.append(f"{case} in {run.root}: {found} instead of {expected}")

    def _start_and_kill(self, case: Case, run: TinyRun) -> bool:
        """Return True if it was killed, and False if it ended before."""
        process = _start(case, run)
        with _never_left_behind(process):
            for _ in self._until_some_moment(case, run):
                if process.poll() is not None:
                    out, err = process.communicate()
                    assert process.poll() == 0, (
                        f"{case}, started again after a kill, failed:\n{out}\n{err}"
                    )
                    return False
            if isinstance(process, Ranks):
                victim = self._random.choice([None, *process.ranks])
                if victim is not None:
                    victim.kill()
                    process.communicate(60)  # the other one is ended as torchrun would end it
                    return victim.returncode != 0
            process.kill()
            process.communicate(60)
            return True

    def _until_some_moment(self, case: Case, run: TinyRun) -> Iterator[None]:
        """Half of the moments lie anywhere in time; the others where some new file or directory has
        just appeared."""
        if self._random.random() < 0.5:
            end = time.monotonic() + self._random.uniform(0.0, self._seconds.get(case, 3.0))
            while time.monotonic() < end:
                yield
                time.sleep(0.001)
            return
        seen, left = _paths(run.run), self._random.randint(1, 40)
        while left > 0:
            yield
            now = _paths(run.run)
            left -= len(now - seen)
            seen |= now
            time.sleep(0.002)

    def _finish(self, case: Case, run: TinyRun, tally: Tally) -> None:
        began = time.monotonic()
        process = _start(case, run)
        with _never_left_behind(process):
            _, err = process.communicate(600)
        if process.poll() != 0:
            tally.mismatches.append(f"{case} in {run.root} failed: {err[-2000:]}")
        self._seconds[case] = time.monotonic() - began

    def _expectation(self, case: Case) -> dict[str, str]:
        if case not in self._expected:
            stage, ranks = case
            if ranks == 1 or stage in _SAME_ON_ANY_RANKS:
                self._expected[case] = verified_hashes(self.finished, stage)
            else:
                run, tally = self._new_run(stage), Tally()
                self._finish(case, run, tally)
                assert not tally.mismatches, tally.mismatches
                self._expected[case] = verified_hashes(run, stage)
        return self._expected[case]

    def _new_run(self, stage: str) -> TinyRun:
        self._runs += 1
        run = TinyRun(self.root / f"run-{self._runs}", self.documents)
        for name in INPUTS[stage]:
            shutil.copytree(self.finished.run / name, run.run / name)
        run.run.mkdir(exist_ok=True)
        return run


def _paths(root: Path) -> set[str]:
    """Whatever is below `root`; unlike rglob it bears directories that vanish while it looks."""
    return {
        f"{directory}/{name}"
        for directory, below, files in os.walk(root)
        for name in (*below, *files)
    }


@contextlib.contextmanager
def _never_left_behind(process: Started | Ranks) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()


def _start(case: Case, run: TinyRun) -> Started | Ranks:
    stage, ranks = case
    return run.start(stage) if ranks == 1 else run.ranks(ranks, stage)


def _ended(run: TinyRun, stage: str) -> bool:
    return all((run.run / name / "manifest.json").exists() for name in ARTIFACTS[stage])


def verified_hashes(run: TinyRun, stage: str) -> dict[str, str]:
    """Content hash of each artifact of a finished stage, after its bytes were compared with its
    records."""
    for name in ARTIFACTS[stage]:
        artifact = Artifact(run.run / name)
        for shard in artifact.shards:
            artifact.verify_shard(shard.index)
        for file in artifact.manifest.files:
            artifact.verify_file(file)
    return run.hashes(stage)
