"""A small random model of every supported class.

Each weight is drawn so that leaving one out or swapping two would show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    MarianConfig,
    MBartConfig,
    MT5Config,
    PegasusConfig,
    PreTrainedModel,
    T5Config,
    UMT5Config,
)

from pipeline.models.architecture import Architecture

VOCABULARY, PAD = 320, 0
_T5_WIDTHS: dict[str, Any] = {
    "d_model": 64,
    "d_ff": 96,
    "num_heads": 4,
    "d_kv": 24,
    "pad_token_id": PAD,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_BART_WIDTHS: dict[str, Any] = {
    "d_model": 64,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 96,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "forced_eos_token_id": 1,
    "decoder_start_token_id": 2,
}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

#: name -> (class of its configuration, its settings, whether its LM head is separate)
MODELS: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "t5-v1.0": (T5Config, _T5_WIDTHS, False),
    "t5-v1.1": (T5Config, _T5_WIDTHS | _GATED, True),
    "byt5": (T5Config, _T5_WIDTHS | _GATED | {"vocab_size": 128}, True),
    "mt5": (MT5Config, _T5_WIDTHS, True),
    "umt5": (UMT5Config, _T5_WIDTHS, True),
    "bart": (BartConfig, _BART_WIDTHS, False),
    "bart-separate-head": (BartConfig, _BART_WIDTHS, True),
    "bart-untied": (BartConfig, _BART_WIDTHS | {"tie_word_embeddings": False}, True),
    "mbart": (
        MBartConfig,
        _BART_WIDTHS | {"scale_embedding": True, "decoder_start_token_id": None},
        False,
    ),
    "pegasus": (PegasusConfig, _BART_WIDTHS | {"scale_embedding": True}, False),
    "marian": (
        MarianConfig,
        _BART_WIDTHS | {"scale_embedding": True, "activation_function": "swish"},
        False,
    ),
    "marian-two-vocabularies": (
        MarianConfig,
        _BART_WIDTHS
        | {
            "scale_embedding": True,
            "share_encoder_decoder_embeddings": False,
            "decoder_vocab_size": 288,
        },
        False,
    ),
}


def tiny_architecture(
    name: str,
    layers: tuple[int, int] = (4, 3),
    widths: Mapping[str, int] | None = None,
    **changes: Any,
) -> Architecture:
    """Return the architecture of one of MODELS.

    layers: blocks of the encoder and the decoder.
    widths: fields of `Shape`.
    changes: entries of the configuration.
    """
    kind, settings, separate_head = MODELS[name]
    config = kind(**{"vocab_size": VOCABULARY} | settings | changes)
    architecture = Architecture(config, separate_head)
    encoder_layers, decoder_layers = layers
    shape = replace(
        architecture.shape,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        **widths or {},
    )
    return architecture.with_shape(shape)


def tiny_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    layers: tuple[int, int] = (4, 3),
    widths: Mapping[str, int] | None = None,
    **changes: Any,
) -> PreTrainedModel:
    """Return a model in evaluation mode, the same for the same arguments."""
    torch.manual_seed(0)
    architecture = tiny_architecture(name, layers, widths, **changes)
    model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(architecture.config)
    if architecture.separate_head:
        architecture.family.separate_head(model)
    learned = [(key, weight) for key, weight in model.named_parameters() if weight.requires_grad]
    with torch.no_grad():
        # Transformers sets norms to one, biases to zero and position biases near zero: a missing
        # one would hardly show.
        for key, weight in [*learned, *model.named_buffers()]:
            if key.endswith("norm.weight") or "norm_embedding.weight" in key:
                weight.uniform_(0.5, 1.5)
            elif "bias" in key or "embed_positions" in key or key == "lm_head.weight":
                weight.normal_(std=0.4)
    return model.to(dtype).eval()


def tiny_batch(
    rows: int = 3, input_length: int = 20, label_length: int = 9, seed: int = 1
) -> dict[str, torch.Tensor]:
    """Return input_ids, attention_mask and labels with padding in inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, 120, (rows, input_length), generator=generator)
    labels = torch.randint(3, 120, (rows, label_length), generator=generator)
    for row in range(rows):
        input_ids[row, input_length - 3 * (row % 4) :] = PAD
        labels[row, label_length - 2 * (row % 3) :] = -100
    return {"input_ids": input_ids, "labels": labels, "attention_mask": (input_ids != PAD).long()}
