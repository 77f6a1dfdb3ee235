"""Fine-tune each model on each task and judge it: RUN/finetune/<name>/<task>/<model>/.

All units run in one process, since starting DeepSpeed costs 8–15 s. A unit's scores are those of the weights in its `hf/`,
read back from disk: a run killed after the export gives the same predictions as one left alone.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.artifacts import Output
from pipeline.console import say
from pipeline.downstream import report
from pipeline.downstream.encode import encode_labels, load_tokenizer
from pipeline.downstream.fit import fit
from pipeline.downstream.score import score
from pipeline.downstream.tasks import TaskData, load_task
from pipeline.downstream.unit import Unit, say_once
from pipeline.errors import ConfigError
from pipeline.recipe import Recipe
from pipeline.stage_args import environment_rank


def run(
    recipe: Recipe,
    *,
    models: Collection[str] | None = None,
    tasks: Collection[str] | None = None,
) -> report.Comparison:
    """Make every unit that is not finished, then report.json and report.md; return the comparison.

    models, tasks: names to restrict the work to; all when None.
    Every rank calls it. Raises ConfigError or DataError before anything is written when a model, a task's rows or its labels
    are at fault.
    """
    known = {task.name: task for task in recipe.finetune.tasks}
    if len(known) < len(recipe.finetune.tasks):
        raise ConfigError("finetune.tasks: two tasks have the same name")
    units = [
        Unit(recipe, model, task)
        for task in _chosen("task", known, tasks).values()
        for model in _chosen("model", recipe.finetune.models, models)
    ]
    if not units:
        raise ConfigError("nothing to fine-tune: the recipe needs finetune.models and finetune.tasks")
    pending = [unit for unit in units if not unit.output.complete()]
    say_once(f"finetune: {len(units) - len(pending)} of {len(units)} units are finished")
    if pending:
        data = {name: load_task(task) for name, task in {unit.task.name: unit.task for unit in pending}.items()}
        _preflight(pending, data)
        for unit in pending:
            finetune_one(unit, data[unit.task.name])
    comparison = report.compare(recipe)
    if environment_rank()[0] == 0:
        report.write(recipe, comparison)
    return comparison


def finetune_one(unit: Unit, data: TaskData) -> Output:
    """Fine-tune and score one unit unless it is finished; every rank calls it after `distributed.setup()`."""
    from pipeline.training import distributed

    output, root = unit.output, unit.output.root
    if output.complete():
        return output
    distributed.barrier()  # before rank 0 writes the first file, every rank has seen the same directory
    if distributed.rank() == 0:
        output.begin(alone=True)
    distributed.barrier()
    tokenizer = load_tokenizer(unit.directory)
    if not (root / "hf" / "config.json").is_file():
        fit(unit, data, tokenizer)
        _release()
    scores = score(unit, data, tokenizer)
    _release()
    if distributed.rank() == 0:
        files = sorted(f"hf/{path.relative_to(root / 'hf')}" for path in (root / "hf").rglob("*") if path.is_file())
        output.finish(
            files=[*files, "predictions.jsonl", "metrics.json"], provenance={"world_size": distributed.world_size()}
        )
        # Several times the model's size, and of no use any more.
        shutil.rmtree(root / "checkpoints", ignore_errors=True)
        say(f"{unit}: {scores}")
    distributed.barrier()
    return output


def _preflight(pending: list[Unit], data: Mapping[str, TaskData]) -> None:
    """Find what is wrong before the first file is written, then join the process group."""
    for unit in pending:
        tokenizer = load_tokenizer(unit.directory)
        if data[unit.task.name].labels is not None:
            encode_labels(tokenizer, data[unit.task.name])
    from pipeline.training import distributed
    from pipeline.training.engine import deepspeed_config

    distributed.setup()
    for unit in pending:
        deepspeed_config(unit.settings)
    for task in data.values():
        skipped = [
            f"{p.origin}: {p.empty} empty, {p.dropped} dropped" for p in (task.train, task.test) if p.empty + p.dropped
        ]
        if skipped:
            say_once(f"task {task.task.name}: rows left out of {'; '.join(skipped)}")


def _chosen(what: str, known: Mapping[str, Any], names: Collection[str] | None) -> dict[str, Any]:
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(
            f"the recipe's finetune section has no {what} {unknown[0]!r}; it has {', '.join(known) or 'none'}"
        )
    return {name: value for name, value in known.items() if names is None or name in names}


def _release() -> None:
    """Give the memory of the last model back before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
