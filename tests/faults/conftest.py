"""Runs to be damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.kills import INPUTS
from tests.tiny_run import TinyRun


@pytest.fixture
def run_of(finished_run: TinyRun, few_documents: Path, tmp_path: Path) -> Callable[..., TinyRun]:
    """A run of its own that holds what a stage reads and, of those named, what it wrote."""
    made: list[TinyRun] = []

    def make(stage: str, *written: str) -> TinyRun:
        run = TinyRun(tmp_path / f"run-{len(made)}", few_documents)
        made.append(run)
        for name in (*INPUTS[stage], *written):
            shutil.copytree(finished_run.run / name, run.run / name)
        run.run.mkdir(exist_ok=True)
        return run

    return make
