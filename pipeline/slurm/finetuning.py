"""Jobs of fine-tuning: units, labels of fine-tuned teachers, units that learn from these, a report.

A unit is one model on one task with one seed and one learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import lineage
from pipeline.downstream.finetune import chosen_units
from pipeline.downstream.unit import Unit, distilled
from pipeline.recipe import Recipe, Task
from pipeline.slurm.jobs import Job, Plan
from pipeline.slurm.pretraining import maker_of
from pipeline.slurm.shards import every_nth


@dataclass(frozen=True)
class _PendingUnit:
    """A unit to make. maker: the key of the job that makes its model, None if the model exists."""

    unit: Unit
    maker: str | None


def add_finetuning(plan: Plan, recipe: Recipe, label_tasks: int) -> None:
    """Plan units, labels and the report.

    The first array holds the units that learn from gold rows, and the baselines. Where a
    fine-tuned teacher teaches, each task has an array of at most `label_tasks` jobs that label, and
    one of the units that it teaches.
    """
    settings = recipe.finetune
    units, baselines = chosen_units(recipe, settings.tasks, None, None)
    pending = _pending_units(plan, recipe, units)
    root = f"finetune/{settings.name}"
    items = [str(one.unit) for one in pending if not one.unit.is_taught]
    for task, name in baselines:
        if not lineage.baseline_output(recipe, task, name).complete():
            items.append(f"{task.name}/{name}/baseline")
    makers = _makers([one for one in pending if not one.unit.is_taught])
    plan.add(Job(root, "finetune", makers, tuple(items)), lambda: not items)

    taught = [one for one in pending if one.unit.is_taught]
    arrays = [root]
    for task in settings.tasks:
        of_task = [unit for unit in units if unit.task == task]
        needs = [root, *_makers(taught)]
        if any(settings.data_of(unit.model) != "gold" for unit in of_task):
            needs.append(_add_labels(plan, recipe, task, root, label_tasks))
        if any(unit.is_taught for unit in of_task):
            arrays.append(_add_taught_units(plan, task, root, needs, taught))
    report = recipe.root / root / "report.md"
    plan.add(Job(f"{root}/report", "finetune", tuple(arrays)), report.is_file)


def _pending_units(plan: Plan, recipe: Recipe, units: Sequence[Unit]) -> list[_PendingUnit]:
    """Return the units that are not complete; a unit whose model is being made is not."""
    pending = []
    for unit in units:
        maker = maker_of(plan, recipe, unit.candidate.model)
        if maker is not None or not unit.complete():
            pending.append(_PendingUnit(unit, maker))
    return pending


def _makers(pending: Sequence[_PendingUnit]) -> tuple[str, ...]:
    return tuple(sorted({one.maker for one in pending if one.maker is not None}))


def _add_labels(plan: Plan, recipe: Recipe, task: Task, root: str, tasks: int) -> str:
    """Plan the array that labels the rows of `task` with its fine-tuned teacher; return its key."""
    key = f"distilled/{recipe.finetune.name}/{task.name}"
    job = Job(key, "finetune", (root,), every_nth(tasks))
    plan.add(job, lambda: distilled(recipe, task).complete())
    return key


def _add_taught_units(
    plan: Plan, task: Task, root: str, needs: Sequence[str], taught: Sequence[_PendingUnit]
) -> str:
    """Plan the array of the units of `task` that a fine-tuned teacher teaches; return its key."""
    # The array's key is the directory above its units, like the key of the first array.
    key = f"{root}/{task.name}"
    items = [f"{one.unit.model}/{one.unit.trial}" for one in taught if one.unit.task == task]
    plan.add(Job(key, "finetune", tuple(needs), tuple(items)), lambda: not items)
    return key
