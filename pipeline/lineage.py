"""Where each artifact of a run lives, and what decides its content. No heavy imports: a stage asks this before it starts.

Left out of every identity on purpose: paths, names, how often to log, save or validate (but where the validation decides what is
kept), the micro batch, the number of ranks, compilation and activation checkpointing (they change rounding at most), and
everything of DeepSpeed's JSON but the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.artifacts import Output
from pipeline.artifacts.atomic import sha256_bytes, sha256_file
from pipeline.errors import ConfigError, DataError
from pipeline.models import open_model
from pipeline.models.directory import tokenizer_hash
from pipeline.recipe import Recipe, Task
from pipeline.training.identity import optimisation_payload

#: Format versions: bump one by hand when its stage writes other content from the same settings.
TOKENIZER_FORMAT = 1
TOKENS_FORMAT = 1
FINETUNE_FORMAT = 2
DISTILLED_FORMAT = 1


def tokenizer_output(recipe: Recipe) -> Output:
    """RUN/tokens/tokenizer: trained on the training split, or a copy of the one the recipe names."""
    path = recipe.tokenizer.path
    payload: dict[str, Any] = {"stage": "tokenizer", "format": TOKENIZER_FORMAT}
    if path is None:
        payload |= {
            "corpus": _corpus_payload(recipe),
            "settings": recipe.tokenizer.model_dump(exclude={"path"}),
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
        "settings": recipe.tokens.model_dump(),
    }
    return Output(recipe.root / "tokens" / split, "tokens", payload, recipe.to_yaml(), {})


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
        "task": task.model_dump(exclude=_NO_CONTENT),
        "rows": source_hash(rows),
        "settings": recipe.finetune.model_dump(include={"shard_rows"}),
    }
    if task.unlabelled is None and task.validation is None:  # then not all of them are trained on
        payload["validation_rows"] = recipe.finetune.validation_rows
    root = recipe.root / "distilled" / recipe.finetune.name / task.name
    return Output(root, "distilled", payload, recipe.to_yaml(), {})


#: Of a task, what says where its rows lie or is settled elsewhere.
_NO_CONTENT = {
    "train",
    "validation",
    "test",
    "more_tests",
    "unlabelled",
    "name",
    "max_steps",
    "learning_rate",
}


def _task_payload(task: Task) -> dict[str, Any]:
    files = {
        part: getattr(task, part) for part in ("train", "validation", "test") if getattr(task, part)
    }
    files |= {f"more_tests.{name}": origin for name, origin in task.more_tests.items()}
    return {
        "task": task.model_dump(exclude=_NO_CONTENT),
        "data": {part: source_hash(source) for part, source in files.items()},
    }


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
    return corpus.model_dump(exclude={"sources"}) | {
        "sources": [source_hash(source) for source in corpus.sources]
    }


def _tokenizer_content(path: str) -> str:
    directory = Path(path)
    return tokenizer_hash(directory) if directory.is_dir() else sha256_bytes(path.encode())
