"""The state of every artifact of a run: from its files, from the records of its jobs below RUN/logs, and from Slurm."""

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
_PLACES = ("tokens/*", "teacher_cache/*", "distill/*", "distill_interpolated/*", "distilled/*/*",
           "finetune/*/*/*/*")  # fmt: skip
_ORDER = ("tokens", "teacher_cache", "distill", "distill_interpolated", "distilled", "finetune")


@dataclass
class Stage:
    """One artifact as `miniend status` shows it."""

    key: str
    state: State
    progress: Progress
    #: The Slurm job and what Slurm says of it, e.g. "123 pending (Dependency)"; empty without one.
    job: str = ""
    #: Why it is in that state, in one line; empty when that needs no word.
    note: str = ""


def collect(run: Path) -> list[Stage]:
    """Every artifact of `run` that exists or was submitted; raises DataError when `run` is no run."""
    submitted = submissions(run / "logs")
    found = {
        path.relative_to(run).as_posix()
        for place in _PLACES
        for path in run.glob(place)
        if path.is_dir()
    }
    if not found and not submitted:
        raise DataError(f"{run} is not a run: give the directory that a recipe names as `run`")
    queue = known_jobs(submission.array for submission in submitted.values())
    stages: dict[str, Stage] = {}

    def place(key: str) -> tuple[int, int, str]:
        number = int(submitted[key].array) if key in submitted else 0
        return _ORDER.index(key.split("/", 1)[0]), number, key

    for key in sorted(found | set(submitted), key=place):
        stages[key] = _stage(run, key, submitted.get(key), queue)
    for key, stage in stages.items():
        if stage.state == "cancelled" and not stage.note:
            stage.note = _missed(
                submitted[key], {name: other for name, other in stages.items() if name != key}
            )
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
    # Of an array's tasks, what is going on comes before what is over, and the worst of that first.
    for state in ("running", "waiting", "failed", "stopped", "cancelled"):
        if any(found == state for found, _ in states):
            notes = [note for found, note in states if note and found in (state, "failed")]
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
    if known is not None:
        return (
            ("cancelled", "")
            if known.state == "CANCELLED"
            else ("failed", f"Slurm ended job {job}: {known.state}")
        )
    if queue is not None:  # Slurm answers, but has forgotten the job
        return (
            ("failed", f"job {job} ended without a word")
            if event == "running"
            else ("cancelled", "")
        )
    if event == "running":
        return ("running" if is_fresh(progress) else "stopped"), ""
    return "waiting", ""


def _missed(submission: Submission, stages: Mapping[str, Stage]) -> str:
    """Which of the artifacts that a cancelled job waited for is to blame."""
    words = {"failed": "failed", "cancelled": "was cancelled", "stale": "is stale"}
    for need in submission.needs:
        for key, stage in stages.items():
            if (key == need or key.startswith(f"{need}/")) and stage.state in words:
                return f"needs {key}, which {words[stage.state]}"
    return "cancelled by hand"


def _describe(submission: Submission, queue: Mapping[str, QueuedJob]) -> str:
    known = [queue[job] for job in submission.jobs if job in queue]
    live = [job for job in known if job.live] or known
    if not live:
        return submission.array
    states = sorted({job.state.lower() for job in live})
    reason = next((f" ({job.reason})" for job in live if job.reason and job.live), "")
    # Of one job its own number, of several the array's.
    return f"{live[0].identifier if len(submission.jobs) == 1 else submission.array} {', '.join(states)}{reason}"


def _stale(run: Path, record: Mapping[str, object]) -> str:
    """Which input of an artifact is not the one it was made from any more; empty when all are, or are gone."""
    payload = record.get("payload")
    if not isinstance(payload, dict):
        return ""
    if payload.get("stage") == "finetune":
        return ""  # made from a model, whose hash would take reading it
    for source, place in {
        "tokenizer": "tokens/tokenizer",
        "tokens": "tokens/train",
        "cache": "teacher_cache/*",
    }.items():
        made_from = payload.get(source)
        # An input that is being made again from the same things is no other one.
        records = [
            read_json(path / name)
            for path in run.glob(place)
            for name in ("manifest.json", "fingerprint.json")
        ]
        fingerprints = {record["fingerprint"] for record in records if record}
        if isinstance(made_from, str) and fingerprints and made_from not in fingerprints:
            return f"made from another {place.removesuffix('/*')} than is there now"
    return ""
