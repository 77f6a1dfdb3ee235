"""Jobs of fine-tuning: units, labels of fine-tuned teachers, units that learn from these, a report.

A unit is one model on one task with one seed and one learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.downstream.comparison import TaskJobs, resolve
from pipeline.downstream.job import FineTuneJob, TaskTeacher
from pipeline.layout import Run
from pipeline.recipe import Recipe
from pipeline.slurm.jobs import Job, Plan
from pipeline.slurm.pretraining import maker_of
from pipeline.slurm.shards import every_nth


@dataclass(frozen=True)
class _Pending:
    """A unit to make. maker: the key of the job that makes its model, None if the model exists."""

    unit: FineTuneJob
    maker: str | None


def add_finetuning(plan: Plan, recipe: Recipe, label_tasks: int) -> None:
    """Plan units, labels and the report.

    The first array holds the units that learn from gold rows, and the baselines. Where a
    fine-tuned teacher teaches, each task has an array of at most `label_tasks` jobs that label, and
    one of the units that it teaches.
    """
    comparison, name, run = resolve(recipe), recipe.finetune.name, Run(recipe.root)
    pending = _pending_units(plan, run, comparison.jobs)
    root = f"finetune/{name}"
    gold = [one for one in pending if not one.unit.is_taught]
    items = [str(one.unit) for one in gold]
    items += [str(baseline) for baseline in comparison.baselines if not baseline.complete()]
    plan.add(Job(root, "finetune", _makers(gold), tuple(items)), lambda: not items)

    taught = [one for one in pending if one.unit.is_taught]
    arrays = [root]
    for task in comparison.tasks:
        needs = [root, *_makers(taught)]
        if task.teacher is not None and any(job.data != "gold" for job in task.jobs):
            needs.append(_add_labels(plan, task.teacher, name, root, label_tasks))
        if any(job.is_taught for job in task.jobs):
            arrays.append(_add_taught_units(plan, task, root, needs, taught))
    report = run.comparison(name) / "report.md"
    plan.add(Job(f"{root}/report", "finetune", tuple(arrays)), report.is_file)


def _pending_units(plan: Plan, run: Run, units: Sequence[FineTuneJob]) -> list[_Pending]:
    """Return the units that are not complete; a unit whose model is being made is not."""
    pending = []
    for unit in units:
        maker = maker_of(plan, run, unit.model.source)
        if maker is not None or not unit.complete():
            pending.append(_Pending(unit, maker))
    return pending


def _makers(pending: Sequence[_Pending]) -> tuple[str, ...]:
    return tuple(sorted({one.maker for one in pending if one.maker is not None}))


def _add_labels(plan: Plan, teacher: TaskTeacher, name: str, root: str, tasks: int) -> str:
    """Plan the array that labels the rows of a task with its fine-tuned teacher; return its key."""
    key = f"distilled/{name}/{teacher.task.name}"
    job = Job(key, "finetune", (root,), every_nth(tasks))
    plan.add(job, lambda: teacher.labelled.complete())
    return key


def _add_taught_units(
    plan: Plan, task: TaskJobs, root: str, needs: Sequence[str], taught: Sequence[_Pending]
) -> str:
    """Plan the array of the units of `task` that a fine-tuned teacher teaches; return its key."""
    # The array's key is the directory above its units, like the key of the first array.
    key = f"{root}/{task.name}"
    items = [
        f"{one.unit.model.name}/{one.unit.trial}"
        for one in taught
        if one.unit.task.name == task.name
    ]
    plan.add(Job(key, "finetune", tuple(needs), tuple(items)), lambda: not items)
    return key
