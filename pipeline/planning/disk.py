"""Rows of a run, and the bytes they take on disk for each kind of cached target, by the stages' own formulas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.corpus.lengths import example_lengths
from pipeline.corpus.tokens import open_tokens
from pipeline.errors import ConfigError
from pipeline.families import family_of
from pipeline.layout import Run
from pipeline.planning.chain import Model
from pipeline.recipe import Cache, Recipe, States
from pipeline.teacher.cache_size import SHARD_BYTES, row_bytes
from pipeline.teacher.cuts import resolve_cut

#: The kinds a plan compares, by name: what a recipe's `cache` says for each.
KINDS = ("states", "states int8", "sampled", "topk")


@dataclass(frozen=True)
class Rows:
    """How many examples the corpus gives, and how long they are."""

    #: Over all views.
    rows: int
    input_length: int
    target_length: int
    #: Tokens of text in one example.
    raw_length: int
    #: None before the tokens are there: how many documents the corpus has is not known.
    shards: int | None
    #: Where the number comes from, for people.
    source: str

    @property
    def positions(self) -> int:
        return self.input_length + self.target_length


def rows_of(recipe: Recipe, tokens: float | None) -> Rows:
    """Rows of RUN/tokens/train if it is finished, else those that `tokens` tokens of text give.

    Raises ConfigError when neither is there.
    """
    settings = recipe.tokens
    lengths = example_lengths(
        settings.input_length, settings.noise_density, settings.mean_span_length
    )
    root = recipe.root / "tokens" / "train"
    if tokens is None and (root / "manifest.json").is_file():
        artifact = open_tokens(Run(recipe.root), "train")
        columns = artifact.shards[0].columns
        source, target = (columns[name].row_shape[0] for name in ("input_ids", "labels"))
        count = artifact.manifest.totals["rows"]
        return Rows(count, source, target, lengths.raw, len(artifact.shards), str(root))
    if tokens is None:
        raise ConfigError(
            f"how large is the corpus? {root} is not there yet: give --tokens, e.g. --tokens 10B, or run stages/tokenize_corpus.py first"
        )
    count = int(tokens) // lengths.raw * settings.views
    if not count:
        raise ConfigError(f"--tokens {tokens:g} is less than one example of {lengths.raw} tokens")
    return Rows(
        count,
        lengths.input,
        lengths.target,
        lengths.raw,
        None,
        f"{tokens:.3g} tokens of text, {settings.views} view(s)",
    )


def variant(cache: Cache, kind: str) -> Cache:
    """The recipe's cache, changed to hold this one of KINDS alone."""
    if kind == "states int8":
        return cache.model_copy(
            update={
                "kinds": ["states"],
                "states": cache.states.model_copy(update={"dtype": "int8"}),
            }
        )
    if kind == "states" and cache.states.dtype == "int8":
        own = States(encoder_output=cache.states.encoder_output)
        return cache.model_copy(update={"kinds": ["states"], "states": own})
    return cache.model_copy(update={"kinds": [kind]})


def bytes_of_row(cache: Cache, rows: Rows, teacher: Model, dtype: str) -> float:
    """dtype: what the teacher computes in, resolved."""
    vocab_size = family_of(teacher.config).head_size(teacher.config)
    return row_bytes(
        cache, rows.input_length, rows.target_length, teacher.shape.d_model, vocab_size, dtype
    )


def shard_bytes(cache: Cache, rows: Rows, teacher: Model, dtype: str) -> float:
    """Bytes of all shards of a cache: exact but for `sampled`, and for the sidecars beside them."""
    return rows.rows * bytes_of_row(cache, rows, teacher, dtype) + SHARD_BYTES * (rows.shards or 0)


def tail_bytes(cache: Cache, teacher: Model, dtype: str) -> int:
    """Bytes of the weights of the tail that a cache of states keeps; 0 for others."""
    if "states" not in cache.kinds:
        return 0
    entries = sum(weight.numel() for weight in tail_weights(cache, teacher)[1].values())
    return entries * (4 if dtype == "float32" else 2)


def cuts_of(cache: Cache, teacher: Model) -> tuple[int, int]:
    shape = teacher.shape
    return (
        resolve_cut(cache.encoder_cut, shape.encoder_layers, "encoder_cut"),
        resolve_cut(cache.decoder_cut, shape.decoder_layers, "decoder_cut"),
    )


def tail_weights(cache: Cache, teacher: Model) -> tuple[Any, dict[str, Any]]:
    """Configuration and weights of the tail, on the meta device."""

    family = family_of(teacher.config)
    return family.tail_state(teacher.empty(torch.bfloat16), *cuts_of(cache, teacher))
