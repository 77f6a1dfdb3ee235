"""States of jobs from Slurm.

squeue knows the recent ones, sacct older ones where accounting runs. Without either there are none.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

#: States of a job that has ended.
_FINAL = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "REVOKED",
}


@dataclass(frozen=True)
class QueuedJob:
    """A job or array task."""

    #: `123`, or `123_4` for a task of an array.
    identifier: str
    state: str
    #: Why it waits or ended, as Slurm says it; empty without a reason.
    reason: str

    @property
    def array(self) -> str:
        """Return the number that sbatch printed."""
        return self.identifier.partition("_")[0]

    @property
    def live(self) -> bool:
        """Return True if it has not ended."""
        return self.state not in _FINAL


def known_jobs(arrays: Iterable[str]) -> dict[str, QueuedJob] | None:
    """Return the jobs and array tasks of `arrays` that Slurm still knows, by identifier.

    arrays: numbers that sbatch printed.
    Returns None where there is no Slurm, or it does not answer.
    """
    wanted = set(arrays)
    if not wanted:
        return {}
    # -r: one line for each task of an array. --me: a small answer, since busy clusters limit it.
    queue = _ask_slurm("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r")
    if queue is None:
        return None
    fields, numbers = ("-o", "JobID,State,Reason"), ("-j", ",".join(sorted(wanted)))
    accounts = _ask_slurm("sacct", "-X", "-n", "-P", "--array", *fields, *numbers) or []
    jobs: dict[str, QueuedJob] = {}
    # squeue comes last: for a job that restarted, sacct may have the record of an earlier start.
    for line in [*accounts, *queue]:
        job = _parse(line)
        if job.array in wanted:
            jobs[job.identifier] = job
    return jobs


def _parse(line: str) -> QueuedJob:
    identifier, state, reason = (field.strip() for field in line.split("|", 2))
    # sacct says who cancelled a job: `CANCELLED by 1000`.
    state = state.split(" ", 1)[0]
    return QueuedJob(identifier, state, "" if reason in ("None", "(null)") else reason)


def _ask_slurm(*command: str) -> list[str] | None:
    """Return the lines of fields that `command` prints, None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return [line for line in done.stdout.splitlines() if line.count("|") >= 2]
