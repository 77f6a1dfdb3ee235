"""The test cluster itself: two nodes, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, processes
from tests.tiny_run import REPOSITORY

pytestmark = pytest.mark.slow


def test_a_step_runs_on_both_nodes(cluster: Cluster) -> None:
    done = cluster.run("srun", "-N2", "-n2", "bash", "-c", "echo $SLURMD_NODENAME")
    assert sorted(done.stdout.split()) == ["n1", "n2"]


def test_a_second_cluster_starts_next_to_the_first_and_leaves_nothing_behind(
    cluster: Cluster,
) -> None:
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    with Cluster(root) as second:
        # A job that ignores every polite signal and hides in a session of its own.
        script = "trap '' TERM USR1 INT; setsid sleep 1000 & while :; do sleep 1; done"
        second.run("sbatch", "-N2", f"--output={root}/out", "--wrap", script)
        second.wait("the job", lambda: "sleep" in _commands(second), timeout=30)
    assert second.processes() == []
    assert not root.exists()
    assert cluster.run("sinfo", "-h", "-o", "%D").stdout.split()[0] == "2"


def test_a_killed_test_run_leaves_nothing_behind_either(cluster: Cluster) -> None:
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    script = f"""
import os, signal
from pathlib import Path
from tests.slurm.cluster import Cluster, processes
from tests.tiny_run import REPOSITORY
Cluster(Path({str(root)!r})).__enter__().run("sbatch", "--output=/dev/null", "--wrap", "sleep 1000")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=120)
    assert done.returncode == -signal.SIGKILL
    cluster.wait(
        "the end of all its processes",
        lambda: not root.exists() and not processes(root),
        timeout=30,
    )


def _commands(cluster: Cluster) -> set[str]:
    found = set()
    for pid in cluster.processes():
        try:
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
        except OSError:
            continue
    assert os.getpid() not in cluster.processes()
    return found
