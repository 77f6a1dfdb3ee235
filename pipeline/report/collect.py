"""Everything a run left on disk about its models, as one report."""

from __future__ import annotations

from pathlib import Path

from pipeline import __version__
from pipeline.downstream import results
from pipeline.downstream.comparison import resolve
from pipeline.errors import DataError, PipelineError
from pipeline.models import open_model
from pipeline.recipe import Recipe
from pipeline.report import quality
from pipeline.report.curves import read_curve
from pipeline.report.disk import find_recipe
from pipeline.report.document import Curve, Report, Stage
from pipeline.report.training import Run


def collect(run: Path, name: str = "comparison", recipe: Recipe | None = None) -> Report:
    """Read `run`, and in it the comparison RUN/finetune/<name>; what is not there is listed as missing.

    recipe: says which models and tasks are compared; the one beside the newest unit when None. Nothing is computed anew but
    statistics of stored scores. Raises DataError when `run` is no run or has other comparisons but not this one.
    """
    others = sorted(path.name for path in run.glob("finetune/*") if path.is_dir())
    if recipe is None:
        if others and name not in others:
            raise DataError(
                f"{run} has no comparison {name!r}; it has {', '.join(others)}: give one with --name"
            )
        recipe = find_recipe(run, name)
    recipe = recipe.model_copy(
        update={"finetune": recipe.finetune.model_copy(update={"name": name})}
    )
    scores = results.chosen(resolve(recipe))
    tasks, models = quality.task_infos(recipe, scores), quality.model_rows(recipe, scores)
    pairs = quality.differences(scores)
    reference = quality.reference_of(recipe, models)
    if reference is not None:
        quality.add_ratios(models, reference, scores, pairs)
    stages = Run(run).stages()
    return Report(
        name=name,
        run=run.resolve().name,
        version=__version__,
        reference=reference,
        tasks=tasks,
        models=models,
        differences=pairs,
        stages=stages,
        curves=_curves(run, recipe, stages, scores),
        missing=_missing(recipe, scores, stages),
        warnings=_warnings(scores),
    )


def _curves(run: Path, recipe: Recipe, stages: list[Stage], scores: quality.Scores) -> list[Curve]:
    roots = {stage["artifact"]: run / stage["artifact"] for stage in stages}
    units = [
        unit
        for models in scores.values()
        for scored in models.values()
        for unit in scored.units[:1]
    ]
    # By the names they have in the run: what is there may be a link to another disk.
    roots |= {unit.root.relative_to(recipe.root).as_posix(): unit.root for unit in units}
    found = [read_curve(root, name) for name, root in roots.items()]
    return [curve for curve in found if curve is not None]


def _missing(recipe: Recipe, scores: quality.Scores, stages: list[Stage]) -> list[str]:
    lines = [
        f"{stage['artifact']} is not finished" for stage in stages if stage["state"] != "complete"
    ]
    for model, path in ((name, entry.model) for name, entry in recipe.finetune.models.items()):
        try:
            open_model(path)
        except PipelineError:
            lines.append(f"model {model} is not there: {path}")
    for task in recipe.finetune.tasks:
        absent = [
            model for model in recipe.finetune.models if model not in scores.get(task.name, {})
        ]
        root = recipe.root / "finetune" / recipe.finetune.name / task.name
        stale = [model for model in absent if any((root / model).glob("*/manifest.json"))]
        if stale:
            lines.append(
                f"task {task.name} was done for {', '.join(stale)} with another model, data or settings than now, or these are gone"
            )
        if set(absent) - set(stale):
            lines.append(
                f"task {task.name} is not finished for {', '.join(m for m in absent if m not in stale)}"
            )
        counts = {model: len(scored.units) for model, scored in scores.get(task.name, {}).items()}
        most = max(counts.values(), default=0)
        fewer = [
            model
            for model, count in counts.items()
            if count < most and model in recipe.finetune.models
        ]
        if fewer:
            lines.append(f"task {task.name} has fewer seeds for {', '.join(fewer)}")
    return lines


def _warnings(scores: quality.Scores) -> list[str]:
    """What makes numbers of one table not comparable."""
    lines = []
    for task, models in scores.items():
        tests = {tuple(u.rows["test"] for u in scored.units) for scored in models.values()}
        if len({count for counts in tests for count in counts}) > 1:
            lines.append(f"task {task}: not all models were scored on the same number of test rows")
        sessions = {
            m["session"] for scored in models.values() for m in quality.measurements(scored)
        }
        if len(sessions) > 1:
            lines.append(
                f"task {task}: not all models were timed together, so their speeds cannot be compared"
            )
    return lines
