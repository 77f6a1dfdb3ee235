"""Bytes that a cache takes on disk for each kind of target, by the stages' own formulas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from pipeline.models.architecture import Architecture
from pipeline.planning.corpus_rows import CorpusRows
from pipeline.recipe import Cache, States
from pipeline.teacher.cache_size import SHARD_BYTES, row_bytes
from pipeline.teacher.cuts import resolve_cut

#: The kinds of target that a plan compares, as `variant` reads them.
KINDS = ("states", "states int8", "sampled", "topk")


@dataclass(frozen=True)
class CacheFigures:
    """The size of a cache of one kind of target."""

    row_bytes: float
    #: Of all shards.
    shard_bytes: float
    #: Of the tail next to the shards.
    tail_bytes: int
    #: Of shards and tail.
    bytes: float
    #: What all ranks together read while they train.
    bytes_per_second: float


def variant(cache: Cache, kind: str) -> Cache:
    """Return the recipe's cache, changed to hold this one of KINDS alone."""
    if kind == "states int8":
        return cache.model_copy(
            update={
                "kinds": ["states"],
                "states": cache.states.model_copy(update={"dtype": "int8"}),
            }
        )
    if kind == "states" and cache.states.dtype == "int8":
        states = States(encoder_output=cache.states.encoder_output)
        return cache.model_copy(update={"kinds": ["states"], "states": states})
    return cache.model_copy(update={"kinds": [kind]})


def bytes_of_row(cache: Cache, rows: CorpusRows, teacher: Architecture, dtype: str) -> float:
    """Return the bytes of one row. dtype: what the teacher computes in, resolved."""
    width, vocabulary = teacher.shape.d_model, teacher.head_size
    return row_bytes(cache, rows.input_length, rows.target_length, width, vocabulary, dtype)


def shard_bytes(cache: Cache, rows: CorpusRows, teacher: Architecture, dtype: str) -> float:
    """Return the bytes of all shards of a cache.

    They are exact, except for `sampled` and for the sidecars next to the shards.
    """
    return rows.rows * bytes_of_row(cache, rows, teacher, dtype) + SHARD_BYTES * (rows.shards or 0)


def tail_bytes(cache: Cache, teacher: Architecture, dtype: str) -> int:
    """Return the bytes of the weights of the tail that a cache of states keeps; 0 for others."""
    if "states" not in cache.kinds:
        return 0
    entries = sum(weight.numel() for weight in tail_weights(cache, teacher)[1].values())
    return entries * (4 if dtype == "float32" else 2)


def cuts_of(cache: Cache, teacher: Architecture) -> tuple[int, int]:
    """Return the blocks that the recipe cuts the teacher at."""
    shape = teacher.shape
    return (
        resolve_cut(cache.encoder_cut, shape.encoder_layers, "encoder_cut"),
        resolve_cut(cache.decoder_cut, shape.decoder_layers, "decoder_cut"),
    )


def tail_weights(
    cache: Cache, teacher: Architecture
) -> tuple[PretrainedConfig, dict[str, torch.Tensor]]:
    """Return the configuration and the weights of the tail, on the meta device."""
    return teacher.family.tail_state(teacher.empty(torch.bfloat16), *cuts_of(cache, teacher))
