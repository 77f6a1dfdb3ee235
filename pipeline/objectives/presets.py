"""Objectives by name: each preset is a set of weights over the same parts. Imports no torch.

A part with weight zero is not computed. docs/objectives.md says which definitions are this
project's own and which a paper's.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pipeline.errors import ConfigError
from pipeline.objectives.weight_schedules import Scheduled

Projection = Literal["q", "k", "v"]
Stack = Literal["encoder", "decoder"]


class Pair(NamedTuple):
    """One relation: rows of `a` against rows of `b`, and the stack whose padding mask each has."""

    a: Projection
    b: Projection
    rows: Stack
    columns: Stack
    causal: bool


#: Every part of an objective, in the order it is logged.
PARTS = ("lm", "logits", "encoder_relations", "decoder_relations", "cross_relations",
         "encoder_attention", "decoder_attention", "cross_attention", "hidden")  # fmt: skip

#: The attention that a relation or attention part looks at.
ATTENTION_OF: dict[str, Literal["encoder_self", "decoder_self", "cross"]] = {
    "encoder_relations": "encoder_self",
    "decoder_relations": "decoder_self",
    "cross_relations": "cross",
    "encoder_attention": "encoder_self",
    "decoder_attention": "decoder_self",
    "cross_attention": "cross",
}

#: Parts that compare with a teacher: all but the LM loss.
NEEDS_TEACHER = frozenset(PARTS) - {"lm"}

#: The relations each part averages. Self-attention follows MiniLMv2 (Q-Q, K-K, V-V); a decoder's
#: rows see only what precedes them. In cross-attention q comes from the decoder, k and v from the
#: encoder's output, so Q-K joins the stacks.
RELATION_PAIRS: dict[str, tuple[Pair, ...]] = {
    "encoder_relations": (
        Pair("q", "q", "encoder", "encoder", False),
        Pair("k", "k", "encoder", "encoder", False),
        Pair("v", "v", "encoder", "encoder", False),
    ),
    "decoder_relations": (
        Pair("q", "q", "decoder", "decoder", True),
        Pair("k", "k", "decoder", "decoder", True),
        Pair("v", "v", "decoder", "decoder", True),
    ),
    "cross_relations": (
        Pair("q", "k", "decoder", "encoder", False),
        Pair("k", "k", "encoder", "encoder", False),
        Pair("v", "v", "encoder", "encoder", False),
        Pair("q", "q", "decoder", "decoder", True),
    ),
}

PRESETS: dict[str, dict[str, float]] = {
    "lm": {"lm": 1.0},
    "logits": {"lm": 1.0, "logits": 1.0},
    "minilm": {"lm": 1.0, "encoder_relations": 1.0, "decoder_relations": 1.0},
    "minilm_v1": {"lm": 1.0, "encoder_attention": 1.0, "decoder_attention": 1.0},
    "tinybert": {"lm": 1.0, "encoder_relations": 1.0, "decoder_relations": 1.0, "hidden": 1.0},
    "miniend": {"lm": 1.0, "logits": 4.0, "decoder_relations": 1.0, "cross_relations": 1.0},
}


def resolve(preset: str, overrides: Mapping[str, Scheduled] | None = None) -> dict[str, Scheduled]:
    """Return the weights of `preset` with `overrides` put in, in the order of PARTS.

    Parts of weight zero are left out. Raises ConfigError for an unknown preset or part (naming the
    nearest), a negative weight, or nothing left to learn.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown objective preset {preset!r}; {_hint(preset, PRESETS)}")
    weights: dict[str, Scheduled] = dict(PRESETS[preset])
    for part, weight in (overrides or {}).items():
        if part not in PARTS:
            raise ConfigError(
                f"unknown objective part {part!r} in objective.weights; {_hint(part, PARTS)}"
            )
        if not all(0.0 <= value < float("inf") for value in _ends(weight)):
            raise ConfigError(f"objective.weights.{part} is {weight}: give numbers of at least 0")
        weights[part] = weight
    kept = {part: weights[part] for part in PARTS if any(_ends(weights.get(part, 0.0)))}
    if not kept:
        raise ConfigError(
            "every objective weight is zero: "
            "give at least one part of objective.weights a positive weight"
        )
    return kept


def needs_teacher(weights: Mapping[str, Scheduled]) -> bool:
    """Return whether any part with a weight other than zero compares with a teacher."""
    return any(part in NEEDS_TEACHER and any(_ends(weight)) for part, weight in weights.items())


def _ends(weight: Scheduled) -> tuple[float, ...]:
    return weight[:2] if isinstance(weight, tuple) else (weight,)


def _hint(word: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
