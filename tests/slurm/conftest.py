"""The cluster of this directory's tests.

Without Slurm they are skipped, but never in CI (MINIEND_REQUIRE_SLURM=1).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing_programs
from tests.slurm.site import SlurmRun


def _obstacle() -> str | None:
    if os.geteuid() != 0:
        return "starting a Slurm cluster needs root"
    missing = missing_programs()
    return (
        f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)"
        if missing
        else None
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Not in the fixture: pytest would fold the skips of one place into one line.
    obstacle = _obstacle() if "cluster" in getattr(item, "fixturenames", ()) else None
    if obstacle and os.environ.get("MINIEND_REQUIRE_SLURM"):
        pytest.fail(f"MINIEND_REQUIRE_SLURM is set, but {obstacle}", pytrace=False)
    if obstacle:
        pytest.skip(obstacle)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # Not below pytest's own directory: a unix socket's path may have 107 characters.
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    with Cluster(root) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(
    cluster: Cluster, few_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> SlurmRun:
    """A whole run from text to table, submitted at once and left alone. Do not change it."""
    run = SlurmRun(tmp_path_factory.mktemp("undisturbed"), few_documents, cluster)
    run.submit("--until", "distill", teacher=True)
    # The second chain is planned while the first, which makes its tokens and teacher, is queued.
    run.submit()
    cluster.wait_for_jobs(timeout=400)
    return run
