"""What a model directory holds, read from config.json and the headers of its safetensors: no weights, no torch."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CorruptArtifact
from pipeline.models.weights import weight_files

#: Last module names of embedding-like matrices, whose size is the vocabulary's and not the depth's.
_EMBEDDINGS = {"shared", "embed_tokens", "embed_positions", "lm_head"}


@dataclass(frozen=True)
class ModelShape:
    encoder_layers: int
    decoder_layers: int
    #: Every distinct weight, tied ones once; buffers of a fixed value (BART's final_logits_bias) not.
    parameters: int
    #: Those in token and position embeddings and the LM head.
    embedding_parameters: int


def model_shape(directory: Path) -> ModelShape:
    """Raises CorruptArtifact when a file is not what save_pretrained writes."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    shapes: dict[str, list[int]] = {}
    for file in weight_files(directory):
        shapes |= _header(file)
    counted = {
        name: math.prod(shape) for name, shape in shapes.items() if not _is_copy(name, shapes)
    }
    embeddings = sum(
        count for name, count in counted.items() if f".{name}".split(".")[-2] in _EMBEDDINGS
    )
    encoder = config.get(
        "num_layers", config.get("encoder_layers", config.get("num_hidden_layers", 0))
    )
    decoder = config.get("num_decoder_layers", config.get("decoder_layers"))
    return ModelShape(
        encoder, encoder if decoder is None else decoder, sum(counted.values()), embeddings
    )


def _is_copy(name: str, shapes: dict[str, list[int]]) -> bool:
    """Some published checkpoints store the stacks' embeddings beside the `shared` they are tied to.

    A stored lm_head always counts: save_pretrained leaves a tied one out, and T5 v1.1's own is stored though Transformers 5
    writes `tie_word_embeddings: true` into every T5 config.
    """
    tied = name.endswith(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"))
    return (
        tied and any(other.endswith("shared.weight") for other in shapes)
    ) or name == "final_logits_bias"


def _header(file: Path) -> dict[str, list[int]]:
    # https://github.com/huggingface/safetensors#format: 8 bytes of length, then that much JSON.
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
    except (struct.error, ValueError, MemoryError, OverflowError):
        raise CorruptArtifact(f"{file} is not a safetensors file: copy or make it again") from None
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
