"""Where each artifact of a run lives, and what decides its content. No heavy imports: a stage asks this before it starts.

Left out of every identity on purpose: paths, names, how often to log, save or validate (but where the validation decides what is
kept), the micro batch, the number of ranks, compilation and activation checkpointing (they change rounding at most), and
everything of DeepSpeed's JSON but the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import Output
from pipeline.corpus.source_identity import source_hash
from pipeline.errors import ConfigError
from pipeline.models import open_model
from pipeline.recipe import Recipe, Task
from pipeline.training.identity import optimisation_payload

#: Format versions: bump one by hand when its stage writes other content from the same settings.
FINETUNE_FORMAT = 3
DISTILLED_FORMAT = 1


def finetune_root(recipe: Recipe, task: Task, model: str, trial: str) -> Path:
    return recipe.root / "finetune" / recipe.finetune.name / task.name / model / trial


def finetune_output(
    recipe: Recipe,
    task: Task,
    model: str,
    trial: str,
    seed: int,
    learning_rate: float,
    taught: Mapping[str, str],
) -> Output:
    """RUN/finetune/<name>/<task>/<model>/<trial>: one model fine-tuned and scored on one task.

    taught: fingerprints of what it learns from a fine-tuned teacher, "distilled" rows and "logits"; empty without one.
    """
    if model not in recipe.finetune.models:
        raise ConfigError(
            f"finetune.models has no {model!r}; it has {', '.join(recipe.finetune.models) or 'none'}"
        )
    candidate = recipe.finetune.models[model]
    directory = open_model(candidate.model)
    payload = _task_payload(task) | {
        "stage": "finetune",
        "format": FINETUNE_FORMAT,
        "seed": seed,
        "model": directory.content,
        "tokenizer": directory.tokenizer_content,
        "settings": optimisation_payload(recipe.finetune.for_task(task, learning_rate)),
    }
    if taught:
        payload["taught"] = {**taught, "data": recipe.finetune.data_of(model)}
        payload["taught"] |= (
            {"objective": candidate.logits.model_dump()} if candidate.logits is not None else {}
        )
    root = finetune_root(recipe, task, model, trial)
    return Output(root, "finetune", payload, recipe.to_yaml(), {})


def baseline_output(recipe: Recipe, task: Task, name: str) -> Output:
    """RUN/finetune/<name>/<task>/<baseline>/baseline: what needs no model, with the same files as one that does."""
    payload = _task_payload(task) | {
        "stage": "finetune",
        "format": FINETUNE_FORMAT,
        "baseline": name,
        "settings": recipe.finetune.model_dump(include={"validation_rows", "resamples"}),
    }
    return Output(
        finetune_root(recipe, task, name, "baseline"), "finetune", payload, recipe.to_yaml(), {}
    )


def distilled_output(recipe: Recipe, task: Task, teacher: Output) -> Output:
    """RUN/distilled/<name>/<task>: the targets that a fine-tuned teacher gives to unlabelled rows. teacher: of its unit."""
    rows = task.unlabelled or task.train
    payload = {
        "stage": "distilled",
        "format": DISTILLED_FORMAT,
        "teacher": teacher.fingerprint,
        "task": task.identity(),
        "rows": source_hash(rows),
        "settings": recipe.finetune.model_dump(include={"shard_rows"}),
    }
    if task.unlabelled is None and task.validation is None:  # then not all of them are trained on
        payload["validation_rows"] = recipe.finetune.validation_rows
    root = recipe.root / "distilled" / recipe.finetune.name / task.name
    return Output(root, "distilled", payload, recipe.to_yaml(), {})


def _task_payload(task: Task) -> dict[str, Any]:
    files = {
        part: getattr(task, part) for part in ("train", "validation", "test") if getattr(task, part)
    }
    files |= {f"more_tests.{name}": origin for name, origin in task.more_tests.items()}
    return {
        "task": task.identity(),
        "data": {part: source_hash(source) for part, source in files.items()},
    }
