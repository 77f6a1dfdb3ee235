"""One report from everything that a run left on disk about its models."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pipeline import __version__
from pipeline.downstream import results
from pipeline.downstream.comparison import Comparison, resolve
from pipeline.errors import DataError, PipelineError
from pipeline.layout import Run
from pipeline.models import open_model
from pipeline.recipe import Recipe
from pipeline.report import quality
from pipeline.report.document import Curve, Report, StageRecord
from pipeline.report.loss_curves import read_curve
from pipeline.report.run_files import find_recipe
from pipeline.report.stage_records import stage_records


def assemble(run: Path, name: str = "comparison", recipe: Recipe | None = None) -> Report:
    """Read `run` and its comparison RUN/finetune/<name>; list as missing what is not there.

    recipe: says which models and tasks are compared; that of the newest unit when None.
    Nothing is computed again except statistics of stored scores.
    Raises DataError when `run` is no run, or has other comparisons but not this one.
    """
    comparisons = sorted(path.name for path in run.glob("finetune/*") if path.is_dir())
    if recipe is None:
        if comparisons and name not in comparisons:
            known = ", ".join(comparisons)
            raise DataError(
                f"{run} has no comparison {name!r}; it has {known}: give one with --name"
            )
        recipe = find_recipe(run, name)
    named = recipe.finetune.model_copy(update={"name": name})
    recipe = recipe.model_copy(update={"finetune": named})
    comparison = resolve(recipe)
    scores = results.chosen(comparison)
    models = quality.model_rows(comparison, recipe.run, scores)
    pairs = quality.differences(scores)
    reference = quality.reference_of(named.teacher, models)
    if reference is not None:
        quality.add_ratios(models, reference, scores, pairs)
    stages = stage_records(run)
    return Report(
        name=name,
        run=run.resolve().name,
        version=__version__,
        reference=reference,
        tasks=quality.task_infos(comparison, scores),
        models=models,
        differences=pairs,
        stages=stages,
        curves=_curves(run, recipe.root, stages, scores),
        missing=_missing(comparison, Run(recipe.root).comparison(name), scores, stages),
        warnings=_warnings(scores),
    )


def _curves(
    run: Path, root: Path, stages: list[StageRecord], scores: quality.Scores
) -> list[Curve]:
    """Return the curves of `run`. root: the directory that the recipe calls its run."""
    roots = {stage["artifact"]: run / stage["artifact"] for stage in stages}
    units = [
        unit
        for models in scores.values()
        for scored in models.values()
        for unit in scored.units[:1]
    ]
    # By their names in the run: what is there may be a link to another disk.
    roots |= {unit.root.relative_to(root).as_posix(): unit.root for unit in units}
    curves = [read_curve(directory, name) for name, directory in roots.items()]
    return [curve for curve in curves if curve is not None]


def _missing(
    comparison: Comparison, root: Path, scores: quality.Scores, stages: list[StageRecord]
) -> list[str]:
    """Return what is not there, in sentences. root: the directory of the comparison."""
    lines = [
        f"{stage['artifact']} is not finished" for stage in stages if stage["state"] != "complete"
    ]
    for name, model in comparison.models.items():
        try:
            open_model(model.source)
        except PipelineError:
            lines.append(f"model {name} is not there: {model.source}")
    for task in comparison.tasks:
        scored = scores.get(task.name, {})
        lines += _missing_of_task(comparison.models, task.name, root / task.name, scored)
    return lines


def _missing_of_task(
    models: Collection[str], task: str, root: Path, scored: quality.ScoresOfTask
) -> list[str]:
    lines = []
    absent = [model for model in models if model not in scored]
    stale = [model for model in absent if any((root / model).glob("*/manifest.json"))]
    unfinished = [model for model in absent if model not in stale]
    if stale:
        lines.append(
            f"task {task} was done for {', '.join(stale)} with another model, data or settings "
            "than now, or these are gone"
        )
    if unfinished:
        lines.append(f"task {task} is not finished for {', '.join(unfinished)}")
    counts = {model: len(seeds.units) for model, seeds in scored.items()}
    most = max(counts.values(), default=0)
    fewer = [model for model, count in counts.items() if count < most and model in models]
    if fewer:
        lines.append(f"task {task} has fewer seeds for {', '.join(fewer)}")
    return lines


def _warnings(scores: quality.Scores) -> list[str]:
    """Return why numbers of one table cannot be compared."""
    lines = []
    for task, models in scores.items():
        rows = {unit.rows["test"] for scored in models.values() for unit in scored.units}
        if len(rows) > 1:
            lines.append(f"task {task}: not all models were scored on the same number of test rows")
        sessions = {
            measurement["session"]
            for scored in models.values()
            for measurement in quality.measurements(scored)
        }
        if len(sessions) > 1:
            lines.append(
                f"task {task}: not all models were timed together, "
                "so their speeds cannot be compared"
            )
    return lines
