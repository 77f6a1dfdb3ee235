"""State of every artifact of a run: from its files, the records of its jobs, and from Slurm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import DataError
from pipeline.slurm.queue import QueuedJob, known_jobs
from pipeline.slurm.records import Submission, submissions
from pipeline.status.progress import Progress, artifact_progress, is_fresh, read_json

State = Literal["waiting", "running", "stopped", "failed", "cancelled", "stale", "complete"]

#: Directories of artifacts below a run, in the order in which data flows.
_PATTERNS = (
    "tokens/*",
    "teacher_cache/*",
    "distill/*",
    "distill_interpolated/*",
    "distilled/*/*",
    "finetune/*/*/*/*",
)
_ORDER = tuple(pattern.partition("/")[0] for pattern in _PATTERNS)
#: Inputs of an artifact by their names in its payload, and where they are below the run.
_INPUTS = {"tokenizer": "tokens/tokenizer", "tokens": "tokens/train", "cache": "teacher_cache/*"}
#: Of an array's tasks, running states come before finished ones, and among these the worst first.
_WORST_FIRST: tuple[State, ...] = ("running", "waiting", "failed", "stopped", "cancelled")


@dataclass
class Stage:
    """One artifact as `miniend status` shows it."""

    key: str
    state: State
    progress: Progress
    #: The Slurm job and what Slurm says of it, e.g. "123 pending (Dependency)"; empty without one.
    job: str = ""
    #: Why it is in that state, in one line; empty when that is clear.
    note: str = ""


def collect(run: Path) -> list[Stage]:
    """Return every artifact of `run` that exists or was submitted, in the order of the data.

    Raises DataError when `run` is no run.
    """
    submitted = submissions(run / "logs")
    paths = (path for pattern in _PATTERNS for path in run.glob(pattern) if path.is_dir())
    existing = {path.relative_to(run).as_posix() for path in paths}
    if not existing and not submitted:
        raise DataError(f"{run} is not a run: give the directory that a recipe names as `run`")
    queue = known_jobs(submission.array for submission in submitted.values())
    stages: dict[str, Stage] = {}

    def order(key: str) -> tuple[int, int, str]:
        number = int(submitted[key].array) if key in submitted else 0
        return _ORDER.index(key.split("/", 1)[0]), number, key

    for key in sorted(existing | set(submitted), key=order):
        stages[key] = _stage(run, key, submitted.get(key), queue)
    for key, stage in stages.items():
        if stage.state == "cancelled" and not stage.note:
            others = {name: other for name, other in stages.items() if name != key}
            stage.note = _why_cancelled(submitted[key], others)
    return list(stages.values())


def _stage(
    run: Path, key: str, submission: Submission | None, queue: Mapping[str, QueuedJob] | None
) -> Stage:
    root, progress = run / key, artifact_progress(run, key)
    manifest = read_json(root / "manifest.json")
    stale = _stale(run, manifest or read_json(root / "fingerprint.json") or {})
    job = _describe(submission, queue or {}) if submission else ""
    if stale:
        return Stage(key, "stale", progress, job, stale)
    if manifest:
        return Stage(key, "complete", progress, submission.array if submission else "")
    if submission is not None:
        state, note = _state_of_jobs(submission, queue, progress)
        return Stage(key, state, progress, job, note)
    return Stage(key, "running" if is_fresh(progress) else "stopped", progress)


def _state_of_jobs(
    submission: Submission, queue: Mapping[str, QueuedJob] | None, progress: Progress
) -> tuple[State, str]:
    states = [_state_of_job(job, submission, queue, progress) for job in submission.jobs]
    for state in _WORST_FIRST:
        if any(of_task == state for of_task, _ in states):
            notes = [note for of_task, note in states if note and of_task in (state, "failed")]
            return state, notes[0] if notes else ""
    return "complete", ""


def _state_of_job(
    job: str, submission: Submission, queue: Mapping[str, QueuedJob] | None, progress: Progress
) -> tuple[State, str]:
    event, detail = submission.last_event(job)
    if event == "complete":
        return "complete", ""
    known = (queue or {}).get(job)
    if known is not None and known.live:
        return ("waiting" if known.state == "PENDING" else "running"), ""
    if event == "failed":
        return "failed", detail
    if known is not None and known.state != "CANCELLED":
        return "failed", f"Slurm ended job {job}: {known.state}"
    if known is not None:
        return "cancelled", ""
    if queue is not None:  # Slurm answers, but has forgotten the job
        if event == "running":
            return "failed", f"job {job} ended without a message"
        return "cancelled", ""
    if event == "running":
        return ("running" if is_fresh(progress) else "stopped"), ""
    return "waiting", ""


def _why_cancelled(submission: Submission, stages: Mapping[str, Stage]) -> str:
    """Return which artifact that a cancelled job needed was not made."""
    outcomes = {"failed": "failed", "cancelled": "was cancelled", "stale": "is stale"}
    for need in submission.needs:
        for key, stage in stages.items():
            if (key == need or key.startswith(f"{need}/")) and stage.state in outcomes:
                return f"needs {key}, which {outcomes[stage.state]}"
    return "cancelled by hand"


def _describe(submission: Submission, queue: Mapping[str, QueuedJob]) -> str:
    """Return the job's number with its states and reason in the queue."""
    known = [queue[job] for job in submission.jobs if job in queue]
    live = [job for job in known if job.live] or known
    if not live:
        return submission.array
    states = sorted({job.state.lower() for job in live})
    reason = next((f" ({job.reason})" for job in live if job.reason and job.live), "")
    number = live[0].identifier if len(submission.jobs) == 1 else submission.array
    return f"{number} {', '.join(states)}{reason}"


def _stale(run: Path, record: Mapping[str, object]) -> str:
    """Return which input is not the one that the artifact was made from any more.

    The text is empty when every input is the same, or is gone.
    """
    payload = record.get("payload")
    if not isinstance(payload, dict):
        return ""
    if payload.get("stage") == "finetune":
        return ""  # made from a model, whose hash would take reading it
    for source, pattern in _INPUTS.items():
        made_from = payload.get(source)
        # fingerprint.json: an input that is being made again from the same things is the same.
        records = [
            read_json(path / name)
            for path in run.glob(pattern)
            for name in ("manifest.json", "fingerprint.json")
        ]
        fingerprints = {record["fingerprint"] for record in records if record}
        if isinstance(made_from, str) and fingerprints and made_from not in fingerprints:
            return f"made from another {pattern.removesuffix('/*')} than is there now"
    return ""
