"""A plan: the jobs that a recipe needs now. Complete artifacts and queued jobs are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import ConfigError

#: In the order in which they run.
STAGES = ("tokenize_corpus", "cache_teacher", "distill", "distill_interpolated", "finetune")


@dataclass(frozen=True)
class Job:
    """One job to submit, or one job array."""

    #: The artifact's directory below the run. With an array over units, each unit lies below it.
    key: str
    #: slurm/<stage>.sbatch runs it.
    stage: str
    #: Keys of the jobs that must succeed first.
    needs: tuple[str, ...] = ()
    #: One word for each task of the array; empty for a single job.
    items: tuple[str, ...] = ()
    #: Arguments of the stage, behind the recipe and its overrides.
    arguments: tuple[str, ...] = ()
    #: The stage whose nodes, ranks and time limit it takes from cluster.env; its own when None.
    resources_of: str | None = None


@dataclass
class Plan:
    """Jobs by key. Add them in the order in which data flows: each looks at those before it."""

    #: Job numbers by key: earlier submissions that are in the queue.
    queued: Mapping[str, str]
    #: The stages to plan jobs for.
    stages: Sequence[str]
    jobs: dict[str, Job] = field(default_factory=dict)
    #: Stages of complete artifacts by key.
    complete: dict[str, str] = field(default_factory=dict)
    #: Numbers of queued jobs to wait for by key.
    live: dict[str, str] = field(default_factory=dict)

    def incomplete(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Return those of `keys` that are not complete."""
        return tuple(key for key in keys if key not in self.complete)

    def is_pending(self, key: str) -> bool:
        """Return True if a planned or a queued job makes `key`."""
        return key in self.jobs or key in self.live

    def wait_for(self, key: str) -> bool:
        """Wait for `key` if it is in the queue; return True if a queued or planned job makes it."""
        if key in self.queued:
            self.live[key] = self.queued[key]
        return self.is_pending(key)

    def add(self, job: Job, is_complete: Callable[[], bool]) -> None:
        """Submit `job` if `must_make` says so."""
        if self.must_make(job, is_complete):
            self.submit(job)

    def must_make(self, job: Job, is_complete: Callable[[], bool]) -> bool:
        """Return False if the artifact is complete, in the queue, planned, or of another stage.

        is_complete: called only if what the job needs is complete. Before that, what the artifact
        is made from is not known.
        Raises ConfigError if something that the job needs is neither complete nor being made.
        """
        if self.is_pending(job.key) or job.key in self.complete:
            return False
        if self.wait_for(job.key):
            return False
        needs = self.incomplete(job.needs)
        if not needs and is_complete():
            self.complete[job.key] = job.stage
            return False
        if job.stage not in self.stages:
            return False
        for need in needs:
            if not self.is_pending(need):
                raise ConfigError(
                    f"{job.stage} needs {need}, which is not complete: "
                    "start --from the stage that makes it"
                )
        return True

    def submit(self, job: Job) -> None:
        """Plan `job`, which waits for those of its needs that are not complete."""
        self.jobs[job.key] = replace(job, needs=self.incomplete(job.needs))
