"""Scores, retention, speed and pairwise differences of the finished units of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from pipeline.downstream.bootstrap import TAIL, resampled
from pipeline.downstream.results import Scored, compare
from pipeline.downstream.speed import Measurement
from pipeline.errors import DataError, PipelineError
from pipeline.models import ModelDirectory, open_model
from pipeline.models.counts import block_counts, parameter_counts
from pipeline.recipe import Recipe
from pipeline.report.document import (
    Difference,
    Estimate,
    FineTuning,
    ModelRow,
    Retention,
    Size,
    TaskInfo,
)
from pipeline.status.progress import read_json

#: Task → model or baseline → its units, one a seed.
Scores = Mapping[str, Mapping[str, Scored]]


def task_infos(recipe: Recipe, scores: Scores) -> dict[str, TaskInfo]:
    """The tasks in the recipe's order; one without a finished unit has no metrics yet."""
    infos = {}
    for task in recipe.finetune.tasks:
        units = [unit for scored in scores.get(task.name, {}).values() for unit in scored.units]
        infos[task.name] = TaskInfo(
            kind=str(task.kind),
            metric=task.judged_by,
            metrics=list(
                dict.fromkeys([task.judged_by, *(name for unit in units for name in unit.scores)])
            ),
            rows=units[0].rows["test"] if units else 0,
        )
    return infos


def model_rows(recipe: Recipe, scores: Scores) -> dict[str, ModelRow]:
    """The recipe's models in its order, then the baselines that were scored."""
    names = list(recipe.finetune.models)
    names += dict.fromkeys(name for found in scores.values() for name in found if name not in names)
    return {
        name: _model_row(
            recipe, name, {t: found[name] for t, found in scores.items() if name in found}
        )
        for name in names
    }


def reference_of(recipe: Recipe, models: Mapping[str, ModelRow]) -> str | None:
    """The model that retention and compression refer to: the recipe's teacher, one called so, or that of most parameters."""
    sized = {
        name: row["size"]["parameters"] for name, row in models.items() if row["size"] is not None
    }
    named = [name for name in (recipe.finetune.teacher, "teacher") if name in sized]
    return named[0] if named else max(sized, key=lambda name: sized[name], default=None)


def differences(scores: Scores) -> list[Difference]:
    """Every pair of models on every task, by the task's own metric; but for pairs that were scored on different rows."""
    found = []
    for task, models in scores.items():
        for (name, one), (other, two) in combinations(models.items(), 2):
            try:
                pair = compare(one, two, one.units[0].metric)
            except DataError:
                continue
            found.append(
                Difference(
                    task=task,
                    model=name,
                    against=other,
                    difference=pair.difference,
                    interval=[pair.low, pair.high],
                    p_value=pair.p_value,
                )
            )
    return found


def add_ratios(
    models: Mapping[str, ModelRow], reference: str, scores: Scores, pairs: Sequence[Difference]
) -> None:
    """Fill in compression and retention against `reference`; retention where `pairs` says that they were compared."""
    compared = {(pair["task"], pair["model"], pair["against"]) for pair in pairs}
    compared |= {(pair["task"], pair["against"], pair["model"]) for pair in pairs}
    whole = models[reference]
    for name, row in models.items():
        if row["size"] is not None and whole["size"] is not None:
            row["compression"] = whole["size"]["parameters"] / row["size"]["parameters"]
        for task, found in scores.items():
            if name != reference and not row["baseline"] and (task, name, reference) in compared:
                share = _retention(found[name], found[reference])
                if share is not None:
                    row["retention"][task] = share


def _retention(ours: Scored, theirs: Scored) -> Retention | None:
    """The ratio of the scores, and its percentiles over resamples of the test rows, the same for both models.

    None where the reference scores nothing, or so little that the ratio has no bounds.
    """
    metric = ours.units[0].metric
    if theirs.mean[metric] <= 0:
        return None
    columns = [*ours.columns(metric), *theirs.columns(metric)]
    found = resampled(columns, ours.resamples)
    mine, whole = found[: len(ours.units)].mean(0), found[len(ours.units) :].mean(0)
    if (whole <= 0).any():
        return Retention(share=ours.mean[metric] / theirs.mean[metric], interval=None)
    low, high = np.quantile(mine / whole, [TAIL, 1 - TAIL])
    return Retention(
        share=ours.mean[metric] / theirs.mean[metric], interval=[float(low), float(high)]
    )


def _model_row(recipe: Recipe, name: str, scores: Mapping[str, Scored]) -> ModelRow:
    path = recipe.finetune.models[name].model if name in recipe.finetune.models else None
    directory = _directory(path)
    return ModelRow(
        directory=None if path is None else path.removeprefix(f"{recipe.run.rstrip('/')}/"),
        baseline=path is None,
        size=_size(directory, scores),
        compression=None,
        validation_lm_loss=_lm_loss(directory),
        scores={task: _estimates(scored) for task, scored in scores.items()},
        retention={},
        training={task: _training(scored) for task, scored in scores.items()},
        speed={task: speed for task, scored in scores.items() if (speed := measurements(scored))},
    )


def _estimates(scored: Scored) -> dict[str, Estimate]:
    found = {}
    for metric, mean in scored.mean.items():
        interval = scored.interval.get(metric)
        found[metric] = Estimate(
            mean=mean,
            deviation=scored.deviation.get(metric),
            interval=None if interval is None else list(interval),
        )
    return found


def _training(scored: Scored) -> FineTuning:
    first = scored.units[0]
    return FineTuning(
        seeds=[unit.seed for unit in scored.units if unit.seed is not None],
        learning_rate=scored.learning_rate,
        data=first.data,
        teacher=first.teacher,
        rows=first.rows["train"],
        steps=[unit.steps for unit in scored.units if unit.steps is not None],
    )


def measurements(scored: Scored) -> list[Measurement]:
    """Of the first of its seeds that was timed."""
    for unit in scored.units:
        path = unit.root / "speed.json"
        if path.is_file():
            return list(json.loads(path.read_text(encoding="utf-8")))
    return []


def _directory(path: str | None) -> Path | None:
    if path is None:
        return None
    try:
        return open_model(path).path
    except PipelineError:
        return None  # not made yet, or made elsewhere


def _size(directory: Path | None, scores: Mapping[str, Scored]) -> Size | None:
    """From the model's own files, else from those of a unit, which has the same shape."""
    places = [directory, *(unit.root / "hf" for scored in scores.values() for unit in scored.units)]
    for place in places:
        if place is None or not (place / "config.json").is_file():
            continue
        model = ModelDirectory(str(place), place)
        counts, (encoder_layers, decoder_layers) = parameter_counts(model), block_counts(model)
        return Size(
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            parameters=counts.total,
            embedding_parameters=counts.embeddings,
        )
    return None


def _lm_loss(directory: Path | None) -> float | None:
    """Validation LM loss of a model that `distill` made, from the summary beside its hf/."""
    summary = read_json(directory.parent / "summary.json") if directory is not None else None
    return float(summary["validation"]["lm_loss"]) if summary else None
