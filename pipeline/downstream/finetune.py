"""Fine-tune every model on every task and judge it: RUN/finetune/<name>/<task>/<model>/<trial>/.

All units run in one process, since starting DeepSpeed costs 8–15 s. A unit's scores are those of the weights in its `hf/`,
read back from disk: a run killed after the export gives the same predictions as one left alone. Units that learn from the
fine-tuned teacher come after those that do not; what the teacher has to answer for them is made in between.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Collection, Mapping

from pipeline.artifacts import Output
from pipeline.console import say
from pipeline.downstream.baselines import judge_baseline, suits
from pipeline.downstream.encode import encode_labels, load_tokenizer, say_once
from pipeline.downstream.record import overlap
from pipeline.downstream.tasks import TaskData, load_task
from pipeline.downstream.timing import time_models
from pipeline.downstream.unit import Unit, units_of
from pipeline.errors import ConfigError
from pipeline.lineage import baseline_output
from pipeline.recipe import Recipe, Task
from pipeline.stage_args import environment_rank


def run(
    recipe: Recipe,
    *,
    models: Collection[str] | None = None,
    tasks: Collection[str] | None = None,
    trials: Collection[str] | None = None,
    timed: bool = True,
) -> None:
    """Make every unit that is not finished, and time the models of each task on which all are, unless `timed` is false.

    models (baselines among them), tasks, trials: names to restrict the work to; all when None.
    Every rank calls it. Raises ConfigError or DataError before anything is written when a model, a task's rows or its labels
    are at fault.
    """
    chosen = _chosen_tasks(recipe, tasks)
    units, baselines = chosen_units(recipe, chosen, models, trials)
    if not units and not baselines:
        raise ConfigError(
            "nothing to fine-tune: the recipe needs finetune.models and finetune.tasks"
        )
    waiting = [pair for pair in baselines if not baseline_output(recipe, *pair).complete()]
    pending = [unit for unit in units if not unit.complete()]
    total = len(units) + len(baselines)
    say_once(f"finetune: {total - len(pending) - len(waiting)} of {total} units are finished")
    if pending or waiting:
        wanted = {unit.task.name for unit in pending} | {task.name for task, _ in waiting}
        rows = recipe.finetune.validation_rows
        data = {task.name: load_task(task, rows) for task in chosen if task.name in wanted}
        _preflight(recipe, pending, data)
        for task, name in waiting:
            if environment_rank()[0] == 0:
                judge_baseline(recipe, data[task.name], name)
        for unit in sorted(pending, key=lambda unit: unit.is_taught):
            _make(unit, data[unit.task.name])
    if timed and environment_rank()[0] == 0:
        time_models(recipe)


def distil_alone(recipe: Recipe, task: str, shards: str | None) -> None:
    """Make RUN/distilled/<name>/<task>, or some of its shards, and nothing else. Every rank calls it.

    shards: as `--shards` takes them (`3,7-9`, `1::4`). Raises IncompleteArtifact while the teacher is not fine-tuned.
    """
    from pipeline.downstream.lessons import distil
    from pipeline.downstream.unit import distilled
    from pipeline.training import distributed

    if recipe.finetune.teacher is None:
        raise ConfigError(
            "--distil needs finetune.teacher: the one of finetune.models to learn from"
        )
    (found,) = _chosen_tasks(recipe, [task])
    if distilled(recipe, found).complete():
        say_once(f"distilled {task}: up to date")
        return
    data = load_task(found, recipe.finetune.validation_rows)
    distributed.setup()
    distil(recipe, data, shards)


def chosen_units(
    recipe: Recipe,
    tasks: Collection[Task],
    models: Collection[str] | None,
    trials: Collection[str] | None,
) -> tuple[list[Unit], list[tuple[Task, str]]]:
    """The units of `tasks`, and the baselines that suit them. Raises ConfigError for a name that the recipe does not have."""
    settings = recipe.finetune
    known = [*settings.models, *settings.baselines]
    _check_names("model", known, models)
    units = [
        unit
        for task in tasks
        for model in settings.models
        if models is None or model in models
        for unit in units_of(recipe, task, model)
    ]
    _check_names("trial", sorted({unit.trial for unit in units} | {"baseline"}), trials)
    baselines: list[tuple[Task, str]] = [
        (task, name)
        for task in tasks
        for name in settings.baselines
        if suits(name, task) and (models is None or name in models)
    ]
    if trials is not None:
        units = [unit for unit in units if unit.trial in trials]
        baselines = baselines if "baseline" in trials else []
    return units, baselines


def _make(unit: Unit, data: TaskData) -> None:
    """Fine-tune and score one unit unless it is finished; every rank calls it after `distributed.setup()`."""
    from pipeline.downstream.fit import fit
    from pipeline.downstream.lessons import distil, lesson_of, training_examples
    from pipeline.downstream.score import score
    from pipeline.training import distributed

    if unit.settings.data_of(unit.model) != "gold":
        distil(unit.recipe, data)
    output, root = unit.output, unit.output.root
    if output.complete():
        return
    distributed.barrier()  # before rank 0 writes the first file, every rank has seen the same directory
    if distributed.rank() == 0:
        output.begin(alone=True)
    distributed.barrier()
    tokenizer = load_tokenizer(unit.directory)
    train_on = training_examples(unit, data)
    if not (root / "hf" / "config.json").is_file():
        fit(unit, data, train_on, lesson_of(unit), tokenizer)
        _release()
    files, shown = score(unit, data, train_on, tokenizer)
    _release()
    if distributed.rank() == 0:
        _finish(output, files)
        say(f"{unit}: {shown}")
    distributed.barrier()


def _finish(output: Output, files: list[str]) -> None:
    from pipeline.training import distributed

    hf = output.root / "hf"
    weights = [f"hf/{path.relative_to(hf)}" for path in hf.rglob("*") if path.is_file()]
    output.finish(files=[*weights, *files], provenance={"world_size": distributed.world_size()})
    # Several times the model's size, and of no use any more.
    shutil.rmtree(output.root / "checkpoints", ignore_errors=True)


def _preflight(recipe: Recipe, pending: list[Unit], data: Mapping[str, TaskData]) -> None:
    """Find what is wrong before the first file is written, then join the process group."""
    for unit in pending:
        tokenizer = load_tokenizer(unit.directory)
        if data[unit.task.name].labels is not None:
            encode_labels(tokenizer, data[unit.task.name])
    for unit in (unit for unit in pending if unit.is_taught):
        teacher = units_of(recipe, unit.task, recipe.finetune.teacher or "")
        if any(not one.complete() and one not in pending for one in teacher):
            raise ConfigError(
                f"{unit} learns from {unit.settings.teacher}, which is not fine-tuned: name it in --models, too"
            )
    if pending:
        from pipeline.training import distributed
        from pipeline.training.compilation import check_compile
        from pipeline.training.configuration import deepspeed_config

        distributed.setup()
        for unit in pending:
            deepspeed_config(unit.settings, distributed.world_size())
            check_compile(unit.settings)
    for found in data.values():
        _tell(found)


def _tell(data: TaskData) -> None:
    """Say what is odd about a task's rows, once."""
    name = data.task.name
    for part in (data.train, data.validation, data.test, *data.more_tests.values()):
        if part.empty + part.dropped:
            say_once(
                f"task {name}: rows left out of {part.origin}: {part.empty} empty, {part.dropped} dropped"
            )
    for what, part in (("training", data.train), ("test", data.test)):
        if part.duplicated:
            say_once(
                f"task {name}: {part.duplicated} {what} rows of {part.origin} occur more than once; they are kept"
            )
    for pair, count in overlap(data).items():
        if count:
            other = {"train_test": "training", "validation_test": "validation"}[pair]
            say_once(
                f"task {name}: {count} of {len(data.test)} test rows are also among the {other} rows"
            )


def _chosen_tasks(recipe: Recipe, names: Collection[str] | None) -> list[Task]:
    _check_names("task", [task.name for task in recipe.finetune.tasks], names)
    return [task for task in recipe.finetune.tasks if names is None or task.name in names]


def _check_names(what: str, known: Collection[str], names: Collection[str] | None) -> None:
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(
            f"the recipe's finetune section has no {what} {unknown[0]!r}; it has {', '.join(known) or 'none'}"
        )


def _release() -> None:
    """Give the memory of the last model back before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
