"""`kill -9` at random moments of every stage, on one rank and on two: the end is always that of a
run left alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.faults.kills import CASES, Case, Killer, Tally
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
#: 9 cases: 27 kills, less those that came after a run's end.
KILLS = 3


@pytest.fixture(scope="module")
def killer(
    finished_run: TinyRun, few_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> Killer:
    return Killer(finished_run, few_documents, tmp_path_factory.mktemp("kills"), SEED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_killed_at_random_the_end_is_the_same(killer: Killer, case: Case) -> None:
    print(f"the same moments again: CHAOS_SEED={SEED}")
    tally = Tally()
    while tally.kills < KILLS:
        killer.round(case, KILLS - tally.kills, tally)
        assert not tally.mismatches
    assert tally.survived == tally.kills == KILLS
