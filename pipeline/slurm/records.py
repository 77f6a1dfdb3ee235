"""What submit.sh and the batch scripts write down of their jobs: RUN/logs/<artifact>/job-<job>.events.

One line for each event: seconds since the epoch, state (submitted, running, requeued, failed, complete) and details. Each file has
one writer: submit.sh begins that of a job, the job goes on with it; a task of an array has its own, job-<array>_<task>.events.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: The job of this key makes these artifacts; any other key is an artifact's directory below the run.
TOKENS = {"tokens": ("tokens/tokenizer", "tokens/validation", "tokens/train")}


@dataclass(frozen=True)
class Submission:
    """The jobs that were submitted last to make one artifact."""

    #: The number that sbatch printed.
    array: str
    #: The artifact's jobs: that number, or its array's tasks `123_4`.
    jobs: tuple[str, ...]
    #: Artifacts that had to be made first.
    needs: tuple[str, ...]
    #: Where the records of `jobs` lie.
    directory: Path

    def last_event(self, job: str) -> tuple[str, str]:
        """State and detail that `job` recorded last; ("submitted", "") when it has not begun."""
        events = read_events(self.directory / f"job-{job}.events")
        return events[-1] if events else ("submitted", "")


def read_events(path: Path) -> list[tuple[str, str]]:
    """(state, details) of every whole line of a record; empty when there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    fields = [line.split("\t", 2) for line in lines]
    return [(found[1], found[2]) for found in fields if len(found) == 3]


def submitted_keys(logs: Path) -> dict[str, str]:
    """Return {key: number of the job submitted last for it}."""
    return {path.parent.relative_to(logs).as_posix(): _number(path) for path in _submitted(logs)}


def submissions(logs: Path) -> dict[str, Submission]:
    """Return {artifact: the jobs submitted last for it}."""
    found: dict[str, Submission] = {}
    for path in _submitted(logs):
        key, array = path.parent.relative_to(logs).as_posix(), _number(path)
        details = next((detail for state, detail in read_events(path) if state == "submitted"), "")
        items, _, needed = details.partition("\t")
        words = [] if items in ("", "-") else items.split()
        needs = tuple(needed.split(",")) if needed not in ("", "-") else ()
        if words and "/" in words[0]:  # an array over artifacts: TASK/MODEL/TRIAL or MODEL/TRIAL
            for index, word in enumerate(words):
                found[f"{key}/{word}"] = Submission(
                    array, (f"{array}_{index}",), needs, path.parent / word
                )
            continue
        jobs = tuple(f"{array}_{index}" for index in range(len(words))) or (array,)
        for artifact in TOKENS.get(key, (key,)):
            found[artifact] = Submission(array, jobs, needs, path.parent)
    return found


def _submitted(logs: Path) -> list[Path]:
    """The records that submit.sh began, oldest submission first."""
    return sorted(
        (path for path in logs.glob("**/job-*.events") if _number(path).isdecimal()),
        key=lambda p: int(_number(p)),
    )


def _number(path: Path) -> str:
    return path.stem.removeprefix("job-")
