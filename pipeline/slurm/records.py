"""Records of jobs: RUN/logs/<artifact>/job-<job>.events, written by submit.sh and batch scripts.

Each event is one line of three fields: seconds since the epoch, state and details. The state is
submitted, running, requeued, failed or complete. Each file has one writer at a time: submit.sh
begins the file of a job, and the job goes on with it. A task of an array has its own,
job-<array>_<task>.events.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Artifacts of the one key that is not an artifact's directory below the run.
TOKENS = {"tokens": ("tokens/tokenizer", "tokens/validation", "tokens/train")}


@dataclass(frozen=True)
class Submission:
    """The jobs submitted last to make one artifact."""

    #: The number that sbatch printed.
    array: str
    #: The artifact's jobs: that number, or tasks of its array (`123_4`).
    jobs: tuple[str, ...]
    #: Artifacts that had to be made first.
    needs: tuple[str, ...]
    #: Directory of the records of `jobs`.
    directory: Path

    def last_event(self, job: str) -> tuple[str, str]:
        """Return (state, details) of the last event; ("submitted", "") before the job begins."""
        events = read_events(self.directory / f"job-{job}.events")
        return events[-1] if events else ("submitted", "")


def read_events(path: Path) -> list[tuple[str, str]]:
    """Return (state, details) of every whole line of a record; empty without a record."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    events = [line.split("\t", 2) for line in lines]
    return [(event[1], event[2]) for event in events if len(event) == 3]


def submitted_keys(logs: Path) -> dict[str, str]:
    """Return {key: number of the job submitted last for it}."""
    return {path.parent.relative_to(logs).as_posix(): _number(path) for path in _submitted(logs)}


def submissions(logs: Path) -> dict[str, Submission]:
    """Return {artifact: the jobs submitted last for it}."""
    latest: dict[str, Submission] = {}
    for path in _submitted(logs):
        key, array = path.parent.relative_to(logs).as_posix(), _number(path)
        items, needs = _submitted_fields(path)
        if items and "/" in items[0]:  # an array over artifacts: TASK/MODEL/TRIAL or MODEL/TRIAL
            for index, item in enumerate(items):
                jobs: tuple[str, ...] = (f"{array}_{index}",)
                latest[f"{key}/{item}"] = Submission(array, jobs, needs, path.parent / item)
            continue
        jobs = tuple(f"{array}_{index}" for index in range(len(items))) or (array,)
        for artifact in TOKENS.get(key, (key,)):
            latest[artifact] = Submission(array, jobs, needs, path.parent)
    return latest


def _submitted_fields(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return the items of the array and the needed keys that submit.sh wrote; "-" is none."""
    details = next((detail for state, detail in read_events(path) if state == "submitted"), "")
    items, _, needs = details.partition("\t")
    return (
        [] if items in ("", "-") else items.split(),
        () if needs in ("", "-") else tuple(needs.split(",")),
    )


def _submitted(logs: Path) -> list[Path]:
    """Return the records that submit.sh began, oldest submission first."""
    paths = [path for path in logs.glob("**/job-*.events") if _number(path).isdecimal()]
    return sorted(paths, key=lambda path: int(_number(path)))


def _number(path: Path) -> str:
    return path.stem.removeprefix("job-")
