"""Scores, retention, speed and pairwise differences of the finished units of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from pipeline.downstream.bootstrap import TAIL, resampled
from pipeline.downstream.comparison import Comparison
from pipeline.downstream.results import Scored, compare
from pipeline.downstream.timing import Measurement
from pipeline.errors import DataError, PipelineError
from pipeline.models import ModelDirectory, open_model
from pipeline.models.counts import block_counts, parameter_counts
from pipeline.report.document import (
    Estimate,
    FineTuning,
    ModelRow,
    ModelSize,
    PairedDifference,
    Retention,
    TaskInfo,
)
from pipeline.status.progress import read_json

#: Model or baseline → its units, one a seed.
ScoresOfTask = Mapping[str, Scored]
#: Task → its scores.
Scores = Mapping[str, ScoresOfTask]


def task_infos(comparison: Comparison, scores: Scores) -> dict[str, TaskInfo]:
    """Return the tasks in the recipe's order.

    A task without a finished unit has only the metric that judges it.
    """
    infos = {}
    for task in (jobs.task for jobs in comparison.tasks):
        units = [unit for scored in scores.get(task.name, {}).values() for unit in scored.units]
        metrics = [task.judged_by, *(name for unit in units for name in unit.scores)]
        infos[task.name] = TaskInfo(
            kind=str(task.kind),
            metric=task.judged_by,
            metrics=list(dict.fromkeys(metrics)),
            rows=units[0].rows["test"] if units else 0,
        )
    return infos


def model_rows(comparison: Comparison, run: str, scores: Scores) -> dict[str, ModelRow]:
    """Return the recipe's models in its order, then the baselines that were scored.

    run: the directory that the recipe calls its run; a model below it is shown relative to it.
    """
    sources = {name: model.source for name, model in comparison.models.items()}
    names = list(sources)
    names += dict.fromkeys(name for task in scores.values() for name in task if name not in names)
    return {
        name: _model_row(
            sources.get(name),
            run,
            {task: models[name] for task, models in scores.items() if name in models},
        )
        for name in names
    }


def reference_of(teacher: str | None, models: Mapping[str, ModelRow]) -> str | None:
    """Return the model that retention and compression refer to.

    It is the recipe's teacher, else the model called `teacher`, else the largest.
    teacher: the recipe's finetune.teacher.
    """
    sized = {
        name: row["size"]["parameters"] for name, row in models.items() if row["size"] is not None
    }
    named = [name for name in (teacher, "teacher") if name in sized]
    return named[0] if named else max(sized, key=lambda name: sized[name], default=None)


def differences(scores: Scores) -> list[PairedDifference]:
    """Return every pair of models on every task, by the task's own metric.

    Pairs that were scored on different rows are left out.
    """
    pairs = []
    for task, models in scores.items():
        for (name, one), (other, two) in combinations(models.items(), 2):
            try:
                pair = compare(one, two, one.units[0].metric)
            except DataError:
                continue
            pairs.append(
                PairedDifference(
                    task=task,
                    model=name,
                    against=other,
                    difference=pair.difference,
                    interval=[pair.low, pair.high],
                    p_value=pair.p_value,
                )
            )
    return pairs


def add_ratios(
    models: Mapping[str, ModelRow],
    reference: str,
    scores: Scores,
    pairs: Sequence[PairedDifference],
) -> None:
    """Fill in compression and retention against `reference`.

    Retention needs a comparison of the two models in `pairs`.
    """
    compared = {(pair["task"], pair["model"], pair["against"]) for pair in pairs}
    compared |= {(pair["task"], pair["against"], pair["model"]) for pair in pairs}
    reference_size = models[reference]["size"]
    for name, row in models.items():
        if row["size"] is not None and reference_size is not None:
            row["compression"] = reference_size["parameters"] / row["size"]["parameters"]
        for task, scored in scores.items():
            if name != reference and not row["baseline"] and (task, name, reference) in compared:
                retention = _retention(scored[name], scored[reference])
                if retention is not None:
                    row["retention"][task] = retention


def _retention(model: Scored, reference: Scored) -> Retention | None:
    """Return the ratio of the scores, and its percentiles over resamples of the test rows.

    The resamples are the same for both models. None where the reference scores nothing.
    The interval is None where the reference scores nothing in a resample: it has no bounds then.
    """
    metric = model.units[0].metric
    if reference.mean[metric] <= 0:
        return None
    share = model.mean[metric] / reference.mean[metric]
    columns = [*model.columns(metric), *reference.columns(metric)]
    values, seeds = resampled(columns, model.resamples), len(model.units)
    of_model, of_reference = values[:seeds].mean(0), values[seeds:].mean(0)
    if (of_reference <= 0).any():
        return Retention(share=share, interval=None)
    low, high = np.quantile(of_model / of_reference, [TAIL, 1 - TAIL])
    return Retention(share=share, interval=[float(low), float(high)])


def _model_row(path: str | None, run: str, scores: Mapping[str, Scored]) -> ModelRow:
    """Return the row of one model. path: its directory or hub name; None for a baseline."""
    directory = _directory(path)
    return ModelRow(
        directory=None if path is None else path.removeprefix(f"{run.rstrip('/')}/"),
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
    estimates = {}
    for metric, mean in scored.mean.items():
        interval = scored.interval.get(metric)
        estimates[metric] = Estimate(
            mean=mean,
            deviation=scored.deviation.get(metric),
            interval=None if interval is None else list(interval),
        )
    return estimates


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
    """Return the measurements of the first seed that was timed."""
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


def _size(directory: Path | None, scores: Mapping[str, Scored]) -> ModelSize | None:
    """Return the size from the model's own files, else from a unit's, which has the same shape."""
    units = [unit for scored in scores.values() for unit in scored.units]
    for path in [directory, *(unit.root / "hf" for unit in units)]:
        if path is None or not (path / "config.json").is_file():
            continue
        model = ModelDirectory(str(path), path)
        counts, (encoder_layers, decoder_layers) = parameter_counts(model), block_counts(model)
        return ModelSize(
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            parameters=counts.total,
            embedding_parameters=counts.embeddings,
        )
    return None


def _lm_loss(directory: Path | None) -> float | None:
    """Return the validation LM loss of a model that `distill` made, from its summary.json."""
    summary = read_json(directory.parent / "summary.json") if directory is not None else None
    return float(summary["validation"]["lm_loss"]) if summary else None
