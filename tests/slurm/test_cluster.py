"""The test cluster itself: two nodes, and nothing left behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slow


def test_a_step_runs_on_both_nodes(cluster: Cluster) -> None:
    done = cluster.run("srun", "-N2", "-n2", "bash", "-c", "echo $SLURMD_NODENAME")
    assert sorted(done.stdout.split()) == ["n1", "n2"]


def test_a_second_cluster_starts_beside_the_first_and_leaves_nothing_behind(cluster: Cluster) -> None:
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as directory:
        with Cluster(Path(directory)) as second:
            # A job that ignores every polite signal and hides in a session of its own.
            script = "trap '' TERM USR1 INT; setsid sleep 1000 & while :; do sleep 1; done"
            second.run("sbatch", "-N2", f"--output={directory}/out", "--wrap", script)
            second.wait("the job", lambda: "sleep" in _commands(second), timeout=30)
        assert second.processes() == []
    assert cluster.run("sinfo", "-h", "-o", "%D").stdout.split()[0] == "2"


def _commands(cluster: Cluster) -> set[str]:
    found = set()
    for pid in cluster.processes():
        try:
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
        except OSError:
            continue
    assert os.getpid() not in cluster.processes()
    return found
