"""Where each artifact of a run lives, and what decides its content. No heavy imports: a stage asks this before it starts.

Left out of every identity on purpose: paths, names, how often to log, save or validate (but where the validation decides what is
kept), the micro batch, the number of ranks, compilation and activation checkpointing (they change rounding at most), and
everything of DeepSpeed's JSON but the optimizer.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import Artifact, Output
from pipeline.artifacts.atomic import sha256_bytes, sha256_file
from pipeline.artifacts.manifest import InputRecord
from pipeline.errors import ConfigError, DataError
from pipeline.hardware import resolve_dtype
from pipeline.models import open_model
from pipeline.models.directory import tokenizer_hash
from pipeline.recipe import Cache, FineTune, Optimisation, Recipe, Student, Teacher

#: Format versions: bump one by hand when its stage writes other content from the same settings.
TOKENIZER_FORMAT = 1
TOKENS_FORMAT = 1
CACHE_FORMAT = 2
DISTILL_FORMAT = 1

#: Settings of training that steer how a run is watched and kept, not what comes out of it.
IDLE = {"name", "log_every", "profile", "peak_tflops", "spike_factor", "samples", "validate_every", "save_every", "save_minutes",
        "keep_checkpoints", "keep_every", "keep_best", "max_skipped_steps", "micro_batch_size",
        "activation_checkpointing", "compile", "deepspeed"}  # fmt: skip

#: Settings of fine-tuning that say which units there are, or that a unit's identity holds elsewhere.
_COMPARED = {
    "models",
    "tasks",
    "seeds",
    "learning_rates",
    "baselines",
    "data",
    "teacher",
    "shard_rows",
}


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
        "teacher": open_model(teacher.model).content,
        "dtype": resolve_dtype(teacher.dtype),
        "settings": _cache_settings(recipe.cache),
    }
    if "sampled" in recipe.cache.kinds:
        payload["seed"] = recipe.seed
    root = recipe.root / "teacher_cache" / teacher.name
    return Output(root, "teacher_cache", payload, recipe.to_yaml(), {"tokens": tokens.as_input()})


def _cache_settings(cache: Cache) -> dict[str, Any]:
    """What decides a cache's content: of the settings of the kinds, those of the kinds that are cached."""
    absent = {"states", "sampled", "topk"} - set(cache.kinds)
    if "states" not in cache.kinds:
        absent |= {"encoder_cut", "decoder_cut"}
    settings = cache.model_dump(exclude=absent) | {"kinds": sorted(cache.kinds)}
    if "states" in settings and cache.states.dtype != "int8":
        settings["states"] = cache.states.model_dump(exclude={"group_size", "outliers"})
    return settings


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
        "teacher": open_model(recipe.teacher.model).content if recipe.teacher is not None else None,
        "student": _student_payload(recipe.student),
        "settings": optimisation_payload(recipe.distill),
    }
    if recipe.distill.original is not None:
        weight = recipe.distill.original.model_dump(mode="json")["weight"]
        payload["original"] = {
            "cache": inputs["original"].fingerprint if needs_cache else None,
            "weight": weight,
        }
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


def _student_payload(student: Student) -> dict[str, Any]:
    # Left out where they say nothing, so that results from before these keys existed stay what they are.
    unset = {name for name in ("scale", "params") if getattr(student, name) is None}
    return student.model_dump(exclude=unset)


def optimisation_payload(settings: Optimisation) -> dict[str, Any]:
    exclude = IDLE | (_COMPARED if isinstance(settings, FineTune) else {"original"})
    chooses = {"patience", "min_delta", "export"}
    if settings.patience is None:
        exclude |= {"patience", "min_delta"}
    if settings.export == "last":
        exclude |= {"export"}
    if (
        not settings.scale_parameter
    ):  # so that results from before the key existed stay what they are
        exclude |= {"scale_parameter"}
    if not chooses <= exclude:  # then what comes out depends on when it was looked at
        exclude -= {"validate_every"}
    kept = settings.model_dump(mode="json", exclude=exclude)
    return kept | {
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
    return corpus.model_dump(exclude={"sources"}) | {
        "sources": [source_hash(source) for source in corpus.sources]
    }


def _tokenizer_content(path: str) -> str:
    directory = Path(path)
    return tokenizer_hash(directory) if directory.is_dir() else sha256_bytes(path.encode())
