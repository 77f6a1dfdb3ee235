"""Parameters and blocks of a model directory.

They are counted from config.json and the headers of the weight files: no weights, no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.models.directory import ModelDirectory

#: Names of the modules whose matrices grow with the vocabulary or the positions, not the depth.
_EMBEDDINGS = {"shared", "embed_tokens", "embed_positions", "lm_head"}


@dataclass(frozen=True)
class ParameterCounts:
    #: Every distinct weight; tied ones count once, and constant buffers do not count.
    total: int
    #: Those in token and position embeddings and in an LM head of its own.
    embeddings: int

    @property
    def blocks(self) -> int:
        """Non-embedding parameters, which scaling laws, `scale` and a chain's ratios count."""
        return self.total - self.embeddings


def parameter_counts(directory: ModelDirectory) -> ParameterCounts:
    """Count the weights of a directory.

    Raises CorruptArtifact for a file that is not a safetensors file.
    """
    weights = directory.weights
    counts = {
        name: math.prod(entry.shape)
        for name, entry in weights.items()
        if not _is_copy(name, weights) and name != "final_logits_bias"
    }
    embeddings = sum(count for name, count in counts.items() if _module_of(name) in _EMBEDDINGS)
    return ParameterCounts(sum(counts.values()), embeddings)


def block_counts(directory: ModelDirectory) -> tuple[int, int]:
    """Return the blocks of encoder and decoder, as config.json says them."""
    config = json.loads((directory.path / "config.json").read_text(encoding="utf-8"))
    encoder = config.get(
        "num_layers", config.get("encoder_layers", config.get("num_hidden_layers", 0))
    )
    decoder = config.get("num_decoder_layers", config.get("decoder_layers"))
    return encoder, encoder if decoder is None else decoder


def _is_copy(name: str, names: Collection[str]) -> bool:
    """Return whether `name` is a stack's copy of the `shared` embeddings it is tied to.

    Some published checkpoints store these copies. A stored lm_head always counts: save_pretrained
    leaves a tied one out. T5 v1.1's own head is stored, although Transformers 5 writes
    `tie_word_embeddings: true` into every T5 config.
    """
    tied = name.endswith(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"))
    return tied and any(other.endswith("shared.weight") for other in names)


def _module_of(name: str) -> str:
    return f".{name}".split(".")[-2]
