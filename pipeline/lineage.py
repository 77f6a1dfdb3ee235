"""Where each artifact of a run lives, and what decides its content. No heavy imports: a stage asks this before it starts.

A mark at a setting leaves it out of every identity (pipeline/recipe/section.py). The number of
ranks is left out too, and everything of DeepSpeed's JSON except the optimizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import Artifact, Output
from pipeline.artifacts.atomic import sha256_bytes, sha256_file
from pipeline.artifacts.content import model_hash, resolve_model, tokenizer_hash
from pipeline.artifacts.manifest import InputRecord
from pipeline.errors import ConfigError, DataError
from pipeline.hardware import resolve_dtype
from pipeline.recipe import Optimisation, Recipe, Task, Teacher

#: Format versions: bump one by hand when its stage writes other content from the same settings.
TOKENIZER_FORMAT = 1
TOKENS_FORMAT = 1
CACHE_FORMAT = 2
DISTILL_FORMAT = 2
FINETUNE_FORMAT = 3
DISTILLED_FORMAT = 1


def tokenizer_output(recipe: Recipe) -> Output:
    """RUN/tokens/tokenizer: trained on the training split, or a copy of the one the recipe names."""
    path = recipe.tokenizer.path
    payload: dict[str, Any] = {"stage": "tokenizer", "format": TOKENIZER_FORMAT}
    if path is None:
        payload |= {
            "corpus": _corpus_payload(recipe),
            "settings": recipe.tokenizer.identity(),
        }
    else:
        payload |= {"content": _tokenizer_content(path)}
    return Output(recipe.root / "tokens" / "tokenizer", "tokenizer", payload, recipe.to_yaml(), {})


def tokens_output(recipe: Recipe, split: str) -> Output:
    """RUN/tokens/<split>: the corrupted examples of one split, made with RUN/tokens/tokenizer."""
    payload = {
        "stage": "tokens",
        "format": TOKENS_FORMAT,
        "split": split,
        "seed": recipe.seed,
        "corpus": _corpus_payload(recipe),
        "tokenizer": tokenizer_output(recipe).fingerprint,
        "settings": recipe.tokens.identity(),
    }
    return Output(recipe.root / "tokens" / split, "tokens", payload, recipe.to_yaml(), {})


def tokens_artifact(recipe: Recipe, split: str) -> Artifact:
    return Artifact(recipe.root / "tokens" / split, "tokens")


def tokenizer_directory(recipe: Recipe) -> Path:
    """The Transformers tokenizer of the run; raises IncompleteArtifact when it was not made yet,
    CorruptArtifact when its bytes are not those that were written.
    """
    artifact = Artifact(recipe.root / "tokens" / "tokenizer", "tokenizer")
    for name in artifact.manifest.files:
        artifact.verify_file(name)
    return artifact.root / "hf"


def required_teacher(recipe: Recipe) -> Teacher:
    if recipe.teacher is None:
        raise ConfigError(
            "this recipe names no teacher: add `teacher: {model: DIRECTORY-OR-HUB-NAME}`"
        )
    return recipe.teacher


def cache_output(recipe: Recipe) -> Output:
    """RUN/teacher_cache/<teacher.name>: targets of recipe.teacher for every shard of the training tokens."""
    teacher = required_teacher(recipe)
    tokens = tokens_artifact(recipe, "train")
    payload: dict[str, Any] = {
        "stage": "teacher_cache",
        "format": CACHE_FORMAT,
        "tokens": tokens.fingerprint,
        "teacher": model_hash(resolve_model(teacher.model)),
        "dtype": resolve_dtype(teacher.dtype),
        "settings": recipe.cache.identity(),
    }
    if "sampled" in recipe.cache.kinds:
        payload["seed"] = recipe.seed
    root = recipe.root / "teacher_cache" / teacher.name
    return Output(root, "teacher_cache", payload, recipe.to_yaml(), {"tokens": tokens.as_input()})


def distill_output(
    recipe: Recipe,
    *,
    needs_cache: bool,
    stage: Literal["distill", "distill_interpolated"] = "distill",
) -> Output:
    """RUN/<stage>/<distill.name>: a student trained from cached targets, or with the LM loss alone."""
    train, validation = tokens_artifact(recipe, "train"), tokens_artifact(recipe, "validation")
    inputs = {"train": train.as_input(), "validation": validation.as_input()}
    original = original_recipe(recipe)
    if needs_cache:
        inputs["cache"] = _cache_input(recipe)
        if original is not None:
            inputs["original"] = _cache_input(original)
    payload: dict[str, Any] = {
        "stage": "distill",
        "format": DISTILL_FORMAT,
        "seed": recipe.seed,
        "tokens": train.fingerprint,
        "cache": inputs["cache"].fingerprint if needs_cache else None,
        "teacher": model_hash(resolve_model(recipe.teacher.model))
        if recipe.teacher is not None
        else None,
        "student": recipe.student.identity(),
        "settings": optimisation_payload(recipe.distill),
    }
    if original is not None:
        payload["original"] = inputs["original"].fingerprint if needs_cache else None
    if recipe.distill.targets == "online" and recipe.teacher is not None:
        payload["teacher_dtype"] = resolve_dtype(recipe.teacher.dtype)
    return Output(
        recipe.root / stage / recipe.distill.name, stage, payload, recipe.to_yaml(), inputs
    )


def original_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe with its second teacher in the place of its teacher; None when it has none."""
    original = recipe.distill.original
    return None if original is None else recipe.model_copy(update={"teacher": original.teacher})


def _cache_input(recipe: Recipe) -> InputRecord:
    cache = cache_output(recipe)
    cache.complete()  # refuses one that was made from another teacher, or with other settings, than the recipe says
    return Artifact(cache.root, "teacher_cache").as_input()


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
    directory = resolve_model(candidate.model)
    payload = _task_payload(task) | {
        "stage": "finetune",
        "format": FINETUNE_FORMAT,
        "seed": seed,
        "model": model_hash(directory),
        "tokenizer": tokenizer_hash(directory),
        "settings": optimisation_payload(recipe.finetune.for_task(task, learning_rate)),
    }
    if taught:
        payload["taught"] = {**taught, "data": recipe.finetune.data_of(model)}
        payload["taught"] |= (
            {"objective": candidate.logits.identity()} if candidate.logits is not None else {}
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


def optimisation_payload(settings: Optimisation) -> dict[str, Any]:
    """Return what decides content of training settings, with what the machine and DeepSpeed add."""
    return settings.identity() | {
        "dtype": resolve_dtype(settings.dtype),
        "optimizer": read_deepspeed_json(settings.deepspeed).get("optimizer"),
    }


def read_deepspeed_json(path: str) -> dict[str, Any]:
    try:
        config = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"DeepSpeed configuration {path} does not exist: see ds_configs/"
        ) from None
    except ValueError as error:
        raise ConfigError(f"DeepSpeed configuration {path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"DeepSpeed configuration {path} must be a JSON object")
    return config


def source_hash(source: str, *, again: bool = False) -> str:
    """Identify a source of text: a file by its bytes, a `hub:` dataset by its name.

    A file is hashed once a process; `again` looks whether it is still what it was.
    """
    return _source_hash.__wrapped__(source) if again else _source_hash(source)


@cache
def _source_hash(source: str) -> str:
    if source.startswith("hub:"):
        return source
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source} does not exist (for a datasets name write hub:NAME)")
    return sha256_file(path)


def _corpus_payload(recipe: Recipe) -> dict[str, Any]:
    if recipe.corpus is None:
        raise ConfigError("this recipe names no corpus: add `corpus: {sources: [FILE, …]}`")
    corpus = recipe.corpus
    return corpus.identity() | {"sources": [source_hash(source) for source in corpus.sources]}


def _tokenizer_content(path: str) -> str:
    directory = Path(path)
    return tokenizer_hash(directory) if directory.is_dir() else sha256_bytes(path.encode())
