"""T5 (Raffel et al. 2020), T5 v1.1, Flan-T5, ByT5, mT5 and umT5: relative position bias, RMS norms, unscaled attention.

ByT5 is a T5 v1.1 over bytes: its `model_type` is t5, its encoder three times as deep as its decoder.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, T5Config

from pipeline.errors import ConfigError
from pipeline.families.base import Attention, Family, Head, Projections, Shape, Stack
from pipeline.families.units import RESIDUAL, Axes, Units

#: The attention width of a student in d_model at most; more is likely a mistake.
_WIDEST = 4
#: Held by block 0 alone, and used by all blocks of its stack.
_BIAS = "SelfAttention.relative_attention_bias.weight"


class T5(Family):
    model_types: tuple[str, ...] = ("t5", "mt5")
    overflows_in_fp16 = True

    def shape(self, config: Any) -> Shape:
        return Shape(
            encoder_layers=config.num_layers,
            decoder_layers=config.num_decoder_layers,
            d_model=config.d_model,
            d_ff=config.d_ff,
            num_heads=config.num_heads,
            d_kv=config.d_kv,
        )

    def with_shape(self, config: Any, shape: Shape) -> Any:
        own = self.shape(config)
        if (shape.d_model, shape.attention_width) != (own.d_model, own.attention_width):
            self._check_widths(shape)
        changed = copy.deepcopy(config)
        changed.num_layers, changed.num_decoder_layers = shape.encoder_layers, shape.decoder_layers
        changed.d_model, changed.d_ff = shape.d_model, shape.d_ff
        changed.num_heads, changed.d_kv = shape.num_heads, shape.d_kv
        return changed

    def new_config(self, shape: Shape, vocab_size: int) -> Any:
        config = T5Config(  # type: ignore[call-arg]
            vocab_size=vocab_size,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,  # which Transformers reads as: T5 1.1, do not scale the decoder's output
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
        return self.with_shape(config, shape)

    def blocks(self, model: PreTrainedModel, stack: Stack) -> nn.ModuleList:
        return getattr(model, stack).block

    def projections(self, model: PreTrainedModel, attention: Attention, block: int) -> Projections:
        stack: Stack = "encoder" if attention == "encoder_self" else "decoder"
        layers: Any = self.blocks(model, stack)[block].layer
        module = layers[1].EncDecAttention if attention == "cross" else layers[0].SelfAttention
        return Projections(module.q, module.k, module.v)

    def head(self, model: PreTrainedModel) -> Head:
        return Head(
            model.lm_head.weight,
            model.config.d_model**-0.5 if self._scales_output(model.config) else 1.0,
            None,
        )

    def attention_scale(self, config: Any) -> float:
        return 1.0

    def position_bias(
        self, model: PreTrainedModel, attention: Attention, block: int, rows: int, columns: int
    ) -> torch.Tensor | None:
        if attention == "cross":
            return None
        holder = block if self.moves_with_block(_BIAS) else 0
        layers: Any = self.blocks(model, "encoder" if attention == "encoder_self" else "decoder")[
            holder
        ].layer
        return layers[0].SelfAttention.compute_bias(rows, columns)

    def block_prefix(self, stack: Stack, block: int) -> str:
        return f"{stack}.block.{block}."

    def axes(self, name: str) -> Axes:
        *path, last = name.removesuffix(".weight").split(".")
        if last in ("shared", "embed_tokens", "lm_head"):
            return None, RESIDUAL
        if last.endswith("layer_norm"):
            return (RESIDUAL,)
        if path[-1] == "DenseReluDense":
            inner = Units("d_ff", ".".join(path))
            return (RESIDUAL, inner) if last == "wo" else (inner, RESIDUAL)
        # One position bias serves the self-attention of all blocks, so that a head is kept in all of them or in none.
        shared = path[-1] == "SelfAttention" and not self.moves_with_block(_BIAS)
        heads = Units("num_heads", f"{path[0]}.SelfAttention" if shared else ".".join(path))
        if last == "relative_attention_bias":
            return None, heads
        return (RESIDUAL, heads) if last == "o" else (heads, RESIDUAL)

    def nearest(self, shape: Shape) -> Shape:
        # T5-3B's attention is exactly as wide as a student's may be, so that rounding can take it beyond.
        return replace(
            shape, num_heads=min(shape.num_heads, max(1, _WIDEST * shape.d_model // shape.d_kv))
        )

    def keep_scales(
        self, weights: dict[str, torch.Tensor], config: Any, teacher_config: Any
    ) -> None:
        if self._scales_output(config):
            weights["decoder.final_layer_norm.weight"] *= (
                config.d_model / teacher_config.d_model
            ) ** 0.5

    def moves_with_block(self, name: str) -> bool:
        return not name.endswith(_BIAS)

    def initialise(self, model: PreTrainedModel) -> None:
        if self._scales_output(model.config):
            return
        # T5 1.1 and mT5 have a head of their own. With the embeddings' std of 1 the logits would start with std √d_model
        # and the loss far above ln(vocabulary); the published models used d_model^-½.
        self.separate_head(model)
        nn.init.normal_(model.lm_head.weight, std=model.config.d_model**-0.5)

    def head_is_separate(self, names: Collection[str]) -> bool:
        return "lm_head.weight" in names and "shared.weight" in names

    def expects_separate_head(self, config: Any) -> bool:
        return not self._scales_output(config)

    def neutralise_inputs(self, model: PreTrainedModel) -> None:
        whole: Any = model
        whole.shared = whole.encoder.embed_tokens = whole.decoder.embed_tokens = nn.Identity()

    @staticmethod
    def _check_widths(shape: Shape) -> None:
        if shape.d_model % 2:
            raise ConfigError(f"student.d_model {shape.d_model} is odd: choose a multiple of 8")
        if shape.attention_width > _WIDEST * shape.d_model:
            raise ConfigError(
                f"student: num_heads {shape.num_heads} × d_kv {shape.d_kv} = {shape.attention_width} is more than "
                f"{_WIDEST} × d_model {shape.d_model}: lower num_heads or d_kv"
            )

    def _scales_output(self, config: Any) -> bool:
        """Whether the decoder's output is multiplied by d_model^-½ before the head, as with embeddings for a head."""
        return getattr(config, "scale_decoder_outputs", False)


class UMT5(T5):
    """umT5 (Chung et al. 2023): a position bias of its own in every block, and an output scaled like T5 1.0's."""

    model_types = ("umt5",)

    def moves_with_block(self, name: str) -> bool:
        return True

    def expects_separate_head(self, config: Any) -> bool:
        return True

    def _scales_output(self, config: Any) -> bool:
        return config.tie_word_embeddings
