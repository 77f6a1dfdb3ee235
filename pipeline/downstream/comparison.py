"""The finetune section of a recipe, resolved: every job, baseline and teacher of the comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from pipeline.downstream.job import (
    BaselineJob,
    ComparedModel,
    FineTuneJob,
    TaskTeacher,
    TeacherSignal,
)
from pipeline.errors import ConfigError
from pipeline.layout import Run
from pipeline.recipe import Recipe, Task


@dataclass(frozen=True)
class TaskJobs:
    """All jobs of one task."""

    task: Task
    #: By model, then learning rate, then seed.
    jobs: tuple[FineTuneJob, ...]
    #: Those that suit the task.
    baselines: tuple[BaselineJob, ...]
    #: None where no model teaches the others.
    teacher: TaskTeacher | None

    @property
    def name(self) -> str:
        return self.task.name

    def by_model(self) -> dict[str, list[FineTuneJob]]:
        grouped: dict[str, list[FineTuneJob]] = {}
        for job in self.jobs:
            grouped.setdefault(job.model.name, []).append(job)
        return grouped

    def select(
        self, models: Collection[str] | None, trials: Collection[str] | None = None
    ) -> TaskJobs:
        """Return these jobs and baselines alone; None means all."""
        jobs = [job for job in self.jobs if _among(job.model.name, models)]
        baselines = [job for job in self.baselines if _among(job.name, models)]
        return replace(
            self,
            jobs=tuple(job for job in jobs if _among(job.trial, trials)),
            baselines=tuple(baselines) if _among("baseline", trials) else (),
        )


@dataclass(frozen=True)
class Comparison:
    """Models compared on tasks, in the recipe's order. No model is opened, no file read yet."""

    tasks: tuple[TaskJobs, ...]
    models: Mapping[str, ComparedModel]
    #: Names of models and baselines that `select` takes.
    names: tuple[str, ...]
    #: At most this many rows validate a task.
    validation_rows: int
    #: Resamples of the test rows for each confidence interval.
    resamples: int
    #: The compute dtype in the recipe, perhaps "auto".
    dtype: str

    @property
    def jobs(self) -> list[FineTuneJob]:
        return [job for task in self.tasks for job in task.jobs]

    @property
    def baselines(self) -> list[BaselineJob]:
        return [job for task in self.tasks for job in task.baselines]

    def select(
        self,
        models: Collection[str] | None = None,
        tasks: Collection[str] | None = None,
        trials: Collection[str] | None = None,
    ) -> Comparison:
        """Return the comparison with the jobs and baselines of these names alone; None means all.

        models: baselines among them. Raises ConfigError for a name that the recipe does not have.
        """
        _check_names("task", [task.name for task in self.tasks], tasks)
        _check_names("model", self.names, models)
        chosen = [task for task in self.tasks if _among(task.name, tasks)]
        known = {job.trial for task in chosen for job in task.select(models).jobs} | {"baseline"}
        _check_names("trial", sorted(known), trials)
        return replace(self, tasks=tuple(task.select(models, trials) for task in chosen))

    def teacher_of(self, task: str) -> TaskTeacher:
        """Return the teacher of a task by its name; raises ConfigError without task or teacher."""
        (jobs,) = self.select(tasks=[task]).tasks
        if jobs.teacher is None:
            raise ConfigError(
                "--distil needs finetune.teacher: the one of finetune.models to learn from"
            )
        return jobs.teacher


def resolve(recipe: Recipe) -> Comparison:
    """Resolve the finetune section of a recipe."""
    settings = recipe.finetune
    models = {name: ComparedModel(name, entry.model) for name, entry in settings.models.items()}
    text = recipe.to_yaml()
    return Comparison(
        tasks=tuple(_resolve_task(recipe, task, models, text) for task in settings.tasks),
        models=models,
        names=(*models, *settings.baselines),
        validation_rows=settings.validation_rows,
        resamples=settings.resamples,
        dtype=settings.dtype,
    )


def _resolve_task(
    recipe: Recipe, task: Task, models: Mapping[str, ComparedModel], text: str
) -> TaskJobs:
    settings = recipe.finetune
    teacher = _teacher(recipe, task, models, text)
    jobs: list[FineTuneJob] = []
    for name, model in models.items():
        if teacher is None or not settings.is_taught(name):
            signal = None
        else:
            data, logits = settings.data_of(name), settings.models[name].logits
            signal = TeacherSignal(data, logits, teacher)
        if teacher is not None and name == teacher.name:
            jobs += teacher.jobs
        else:
            jobs += _jobs_of(recipe, task, model, signal, text)
    return TaskJobs(task, tuple(jobs), _baselines(recipe, task, text), teacher)


def _teacher(
    recipe: Recipe, task: Task, models: Mapping[str, ComparedModel], text: str
) -> TaskTeacher | None:
    settings = recipe.finetune
    if settings.teacher is None:
        return None
    return TaskTeacher(
        task,
        _jobs_of(recipe, task, models[settings.teacher], None, text),
        Run(recipe.root).distilled(settings.name, task.name),
        settings.shard_rows,
        settings.validation_rows,
        text,
    )


def _jobs_of(
    recipe: Recipe, task: Task, model: ComparedModel, signal: TeacherSignal | None, text: str
) -> tuple[FineTuneJob, ...]:
    """Return the jobs of one model on one task: for each learning rate, all seeds."""
    settings, run = recipe.finetune, Run(recipe.root)
    seeds = settings.seeds if settings.seeds is not None else [recipe.seed]
    rates = settings.rates(task)
    # The rate is part of the directory's name only where several are tried.
    suffixes = [f".rate-{rate:g}" if len(rates) > 1 else "" for rate in rates]
    return tuple(
        FineTuneJob(
            run.fine_tuned(settings.name, task.name, model.name, f"seed-{seed}{suffix}"),
            task,
            model,
            settings.for_task(task, rate),
            seed,
            signal,
            text,
        )
        for rate, suffix in zip(rates, suffixes, strict=True)
        for seed in seeds
    )


def _baselines(recipe: Recipe, task: Task, text: str) -> tuple[BaselineJob, ...]:
    """Return the baselines that suit a task: `lead` writes text, `tfidf` labels and numbers."""
    settings, run = recipe.finetune, Run(recipe.root)
    rows, resamples = settings.validation_rows, settings.resamples
    return tuple(
        BaselineJob(
            run.fine_tuned(settings.name, task.name, name, "baseline"),
            task,
            name,
            rows,
            resamples,
            text,
        )
        for name in settings.baselines
        if (name == "lead") == (task.kind == "generation")
    )


def _among(name: str, names: Collection[str] | None) -> bool:
    return names is None or name in names


def _check_names(what: str, known: Collection[str], names: Collection[str] | None) -> None:
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(
            f"the recipe's finetune section has no {what} {unknown[0]!r}; "
            f"it has {', '.join(known) or 'none'}"
        )
