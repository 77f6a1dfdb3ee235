"""A chain interrupted in every way that Slurm knows ends with the same bytes as one left alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.site import SlurmRun

pytestmark = pytest.mark.slow

#: Makes each step slow without changing its result. Only a signal saves a checkpoint in time: with
#: others, a resume would prove little.
_SLOW = ("distill.validate_every=1", "distill.log_every=1", "distill.save_every=1000")


@pytest.fixture
def run(undisturbed: SlurmRun, cluster: Cluster, few_documents: Path, tmp_path: Path) -> SlurmRun:
    """A run that has tokens and a teacher."""
    run = SlurmRun(tmp_path, few_documents, cluster)
    run.copy(undisturbed, "tokens", "distill/teacher")
    return run


def _submit_distill(
    run: SlurmRun, undisturbed: SlurmRun, *overrides: str, settings: str = ""
) -> str:
    run.copy(undisturbed, "teacher_cache/teacher")
    jobs = run.submit(*overrides, "--from", "distill", "--until", "distill", settings=settings)
    return jobs["distill/student"]


def _ranks(cluster: Cluster) -> list[int]:
    """Return the process ids of the ranks that distil."""
    pids = []
    for pid in cluster.processes():
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if arguments[1:3] == [b"-u", b"stages/distill.py"]:
                pids.append(pid)
    return pids


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_preempted_while_distilling(run: SlurmRun, undisturbed: SlurmRun, cluster: Cluster) -> None:
    job = _submit_distill(run, undisturbed, *_SLOW)
    cluster.wait("five steps", lambda: run.steps("distill/student") >= 5)
    urgent = (
        "--partition=urgent",
        "--exclusive",
        "--nodes=2",
        "--output=/dev/null",
        "--wrap",
        "sleep 1",
    )
    cluster.run("sbatch", *urgent)
    cluster.wait("the requeue", lambda: cluster.job(job)["Restarts"] == "1")
    assert run.status()["distill/student"][0] in ("waiting", "running")
    cluster.wait_for_jobs()
    assert "resuming after step" in run.log("distill/student/rank-00000.log")
    assert run.hash("distill/student") == undisturbed.hash("distill/student")


def test_a_node_fails_while_distilling(
    run: SlurmRun, undisturbed: SlurmRun, cluster: Cluster
) -> None:
    job = _submit_distill(run, undisturbed, *_SLOW, "distill.save_every=4")
    cluster.wait(
        "a checkpoint", lambda: any(run.run.glob("distill/student/checkpoints/*/complete.json"))
    )
    cluster.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    cluster.wait("the requeue", lambda: cluster.job(job)["Restarts"] == "1")
    cluster.wait_for_jobs()  # the node answers, so it is back at once
    assert "resuming after step" in run.log("distill/student/rank-00000.log")
    assert run.hash("distill/student") == undisturbed.hash("distill/student")


def test_a_time_limit_shorter_than_the_job(
    run: SlurmRun, undisturbed: SlurmRun, cluster: Cluster
) -> None:
    # Slurm's shortest limit is a minute. It checks every 30 s and asks up to 30 s early, so
    # here after 20 to 50 s.
    job = _submit_distill(run, undisturbed, *_SLOW, settings="TIME[distill]=1 LEAD=10\n")
    cluster.wait("five steps", lambda: run.steps("distill/student") >= 5)
    ranks, asked = _ranks(cluster), run.log("distill/student/job-*.out").count("asked to stop")
    try:
        # Stopped, so that the job takes longer than its limit on a machine of any speed.
        _signal(ranks, signal.SIGSTOP)
        cluster.wait(
            "the signal",
            lambda: run.log("distill/student/job-*.out").count("asked to stop") > asked,
        )
    finally:
        _signal(ranks, signal.SIGCONT)
    cluster.wait_for_jobs()
    assert int(cluster.job(job)["Restarts"]) >= 1
    assert "resuming after step" in run.log("distill/student/rank-00000.log")
    assert run.hash("distill/student") == undisturbed.hash("distill/student")


def test_an_array_task_is_requeued_in_the_middle_of_its_capture(
    run: SlurmRun, undisturbed: SlurmRun, cluster: Cluster
) -> None:
    array = run.submit("--until", "cache_teacher")["teacher_cache/teacher"]
    shards = run.run / "teacher_cache/teacher/shards"
    cluster.wait("the first shard", (shards / "00000.json").is_file)
    cluster.run("scontrol", "requeue", f"{array}_0")
    cluster.wait("the requeue", lambda: cluster.job(f"{array}_0")["Restarts"] == "1")
    kept = {path: path.stat().st_mtime_ns for path in shards.glob("*.json")}
    assert len(kept) < 12, "requeued too late to show anything"
    cluster.wait_for_jobs()
    assert cluster.job(f"{array}_0")["JobState"] == "COMPLETED"
    assert cluster.job(f"{array}_1")["Restarts"] == "0"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert run.hash("teacher_cache/teacher") == undisturbed.hash("teacher_cache/teacher")


def test_restarts_without_progress_come_to_an_end(run: SlurmRun, cluster: Cluster) -> None:
    array = run.submit(
        "--until", "cache_teacher", settings="CACHE_TASKS=1 MAX_STALLED_RESTARTS=0\n"
    )["teacher_cache/teacher"]
    log = run.run / "logs/teacher_cache/teacher/shards-0/rank-00000.log"
    cluster.wait("the rank's start", log.is_file)
    cluster.run("scancel", "--batch", "--signal=USR1", f"{array}_0")
    cluster.wait_for_jobs()
    state, rest = run.status()["teacher_cache/teacher"]
    assert state == "failed"
    assert "restarted 1 times in a row without a new shard or checkpoint" in rest


def test_a_cancelled_job_saves_and_does_not_come_back(
    run: SlurmRun, undisturbed: SlurmRun, cluster: Cluster
) -> None:
    job = _submit_distill(run, undisturbed, *_SLOW)
    cluster.wait("five steps", lambda: run.steps("distill/student") >= 5)
    cluster.run("scancel", job)
    cluster.wait_for_jobs()
    assert cluster.job(job)["JobState"] == "CANCELLED"
    assert cluster.job(job)["Restarts"] == "0"
    saved = [
        json.loads(path.read_text())["step"]
        for path in run.run.glob("distill/student/checkpoints/*/complete.json")
    ]
    assert saved
    assert run.status()["distill/student"][0] == "cancelled"
