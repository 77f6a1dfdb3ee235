"""Parameters of a model that does not exist yet, counted on the meta device: no weight is drawn, read or stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.initialization import no_init_weights

from pipeline.families import family_of

#: Last module names of embedding-like matrices, whose size is the vocabulary's and not the depth's.
_EMBEDDINGS = {"shared", "embed_tokens", "embed_positions", "lm_head"}


@dataclass(frozen=True)
class Parameters:
    #: Every distinct weight, tied ones once; buffers not.
    total: int
    #: Those in token and position embeddings and the LM head.
    embeddings: int

    @property
    def body(self) -> int:
        return self.total - self.embeddings


def empty_model(config: Any, separate_head: bool | None = None, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """Build the model of `config` on the meta device.

    separate_head: whether its LM head is its own; where None the family's rule for models made from nothing decides.
    """
    with torch.device("meta"):
        with no_init_weights():
            model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype)
        model.tie_weights()
        family = family_of(config)
        if separate_head is None:
            family.initialise(model)
        elif separate_head:
            family.separate_head(model)
    return model


def count_parameters(model: PreTrainedModel) -> Parameters:
    counts = {name: weight.numel() for name, weight in model.named_parameters()}
    embeddings = sum(count for name, count in counts.items() if f".{name}".split(".")[-2] in _EMBEDDINGS)
    return Parameters(sum(counts.values()), embeddings)
