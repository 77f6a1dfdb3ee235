"""Real text for the tests, fetched once into .cache/ (the only thing any test needs the network
for)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.tiny_run import ARTIFACTS, TinyRun, write_few_documents

# Before anything imports huggingface_hub: no test may depend on, or wait for, the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

# How long an example takes is the machine's affair.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def wiki_jsonl() -> Path:
    """10,033 introductions of English Wikipedia articles: title, extract, description, topic."""
    from pipeline.corpus.wiki import fetch_wiki

    return fetch_wiki(REPOSITORY / ".cache")


@pytest.fixture(scope="session")
def few_documents(wiki_jsonl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of them, spread over all topics."""
    return write_few_documents(wiki_jsonl, tmp_path_factory.mktemp("text") / "few.jsonl")


@pytest.fixture(scope="session")
def finished_run(few_documents: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A tiny run whose stages were all left alone to finish, each in a process of its own. Read it,
    do not change it."""
    run = TinyRun(tmp_path_factory.mktemp("finished"), few_documents)
    for stage in ARTIFACTS:
        run.complete(stage, fresh=True)
    return run


@pytest.fixture
def cached_run(finished_run: TinyRun, few_documents: Path, tmp_path: Path) -> TinyRun:
    """A run of its own in which everything before distillation is done."""
    run = TinyRun(tmp_path, few_documents)
    for name in ("tokens", "distill/teacher", "teacher_cache"):
        shutil.copytree(finished_run.run / name, run.run / name)
    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 16 MB."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(where)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small filesystem here: {mounted.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)
