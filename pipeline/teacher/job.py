"""The job of stage 2, resolved once from recipe and disk. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.artifacts import Artifact, Output
from pipeline.corpus.tokens import TokenizerDirectory, open_tokenizer, open_tokens
from pipeline.errors import ConfigError
from pipeline.hardware import resolve_dtype
from pipeline.layout import Run
from pipeline.models import ModelDirectory, open_model
from pipeline.recipe import Cache, Recipe, Teacher
from pipeline.teacher.cuts import resolve_cuts

#: Bump by hand when the stage writes other content from the same settings.
CACHE_FORMAT = 2


@dataclass(frozen=True)
class CacheJob:
    """The cache of one teacher's targets for the training tokens of a run."""

    output: Output
    tokens: Artifact
    run: Run
    teacher: ModelDirectory
    #: The dtype that the teacher computes in, resolved.
    dtype: str
    #: The DeepSpeed JSON of a teacher partitioned over all ranks; None for a whole one.
    deepspeed: str | None
    settings: Cache
    #: Decides the draws of sampled targets.
    seed: int
    #: Tokens of an input, as the recipe says.
    input_length: int

    @cached_property
    def tokenizer(self) -> TokenizerDirectory:
        """Return the tokenizer that made the tokens."""
        return open_tokenizer(self.run)

    @cached_property
    def cuts(self) -> tuple[int, int]:
        """Return the encoder and the decoder block whose input is cached.

        Raises ConfigError when there is no such block.
        """
        return resolve_cuts(self.settings, *_layers(self.teacher))

    @property
    def together(self) -> bool:
        """Return whether all ranks load and run the teacher together."""
        return self.deepspeed is not None


def resolve(
    recipe: Recipe, teacher: Teacher | None = None, model: ModelDirectory | None = None
) -> CacheJob:
    """Return the job of caching the recipe's teacher.

    teacher: another teacher to cache instead. model: the teacher's directory, if already open.
    Raises ConfigError when there is no teacher, and IncompleteArtifact when there are no
    tokens yet.
    """
    spec, run = teacher or required_teacher(recipe), Run(recipe.root)
    tokens, model = open_tokens(run, "train"), model or open_model(spec.model)
    dtype = resolve_dtype(spec.dtype)
    payload: dict[str, Any] = {
        "stage": "teacher_cache",
        "format": CACHE_FORMAT,
        "tokens": tokens.fingerprint,
        "teacher": model.content,
        "dtype": dtype,
        "settings": recipe.cache.identity(),
    }
    if "sampled" in recipe.cache.kinds:
        payload["seed"] = recipe.seed
    inputs = {"tokens": tokens.as_input()}
    root, text = run.cache(spec.name), recipe.to_yaml()
    return CacheJob(
        output=Output(root, "teacher_cache", payload, text, inputs),
        tokens=tokens,
        run=run,
        teacher=model,
        dtype=dtype,
        deepspeed=spec.deepspeed,
        settings=recipe.cache,
        seed=recipe.seed,
        input_length=recipe.tokens.input_length,
    )


def required_teacher(recipe: Recipe) -> Teacher:
    """Return the recipe's teacher; raises ConfigError when it names none."""
    if recipe.teacher is None:
        raise ConfigError(
            "this recipe names no teacher: add `teacher: {model: DIRECTORY-OR-HUB-NAME}`"
        )
    return recipe.teacher


def _layers(teacher: ModelDirectory) -> tuple[int, int]:
    shape = teacher.architecture.shape
    return shape.encoder_layers, shape.decoder_layers
