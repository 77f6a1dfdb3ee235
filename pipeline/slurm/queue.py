"""What Slurm says of jobs: squeue for those it still knows, sacct for older ones where accounting runs. Silent where neither is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

_FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
          "REVOKED"}  # fmt: skip


@dataclass(frozen=True)
class QueuedJob:
    """A job or array task. identifier: `123`, or `123_4` for a task of an array."""

    identifier: str
    state: str
    #: Why it waits or ended, in Slurm's words; empty when there is nothing to say.
    reason: str

    @property
    def array(self) -> str:
        """The number that sbatch printed."""
        return self.identifier.partition("_")[0]

    @property
    def live(self) -> bool:
        return self.state not in _FINAL


def known_jobs(arrays: Iterable[str]) -> dict[str, QueuedJob] | None:
    """The jobs and array tasks of `arrays` (numbers that sbatch printed) that Slurm still knows, by identifier.

    None where there is no Slurm, or it does not answer.
    """
    wanted = set(arrays)
    if not wanted:
        return {}
    # -r: one line for each task of an array. --me: an answer within the limits that busy clusters set.
    queue = _ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r")
    if queue is None:
        return None
    # Oldest knowledge first: what squeue says of a job that restarted is newer than the record of its last start.
    accounts = (
        _ask(
            "sacct",
            "-X",
            "-n",
            "-P",
            "--array",
            "-o",
            "JobID,State,Reason",
            "-j",
            ",".join(sorted(wanted)),
        )
        or []
    )
    found: dict[str, QueuedJob] = {}
    for line in [*accounts, *queue]:
        identifier, state, reason = (field.strip() for field in line.split("|", 2))
        job = QueuedJob(
            identifier, state.split(" ", 1)[0], "" if reason in ("None", "(null)") else reason
        )
        if job.array in wanted:
            found[identifier] = job
    return found


def _ask(*command: str) -> list[str] | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (
        [line for line in done.stdout.splitlines() if line.count("|") >= 2]
        if done.returncode == 0
        else None
    )
