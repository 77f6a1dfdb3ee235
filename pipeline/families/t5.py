"""T5 (Raffel et al. 2020), T5 v1.1, Flan-T5, ByT5, mT5 and umT5.

They have a relative position bias, RMS norms and unscaled attention. ByT5 is a T5 v1.1 over bytes:
its `model_type` is t5, its encoder three times as deep as its decoder.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, T5Config

from pipeline.errors import ConfigError
from pipeline.families.base import Attention, Family, Head, Projections, Shape, Stack
from pipeline.families.units import RESIDUAL, Axes, Units

#: The attention width of a student is at most this times d_model; more is likely a mistake.
_WIDEST = 4
#: Stored in block 0 alone, and used by all blocks of its stack.
_BIAS = "SelfAttention.relative_attention_bias.weight"


class T5(Family):
    model_types: tuple[str, ...] = ("t5", "mt5")
    overflows_in_fp16 = True

    def shape(self, config: PretrainedConfig) -> Shape:
        return Shape(
            encoder_layers=config.num_layers,
            decoder_layers=config.num_decoder_layers,
            d_model=config.d_model,
            d_ff=config.d_ff,
            num_heads=config.num_heads,
            d_kv=config.d_kv,
        )

    def with_shape(self, config: PretrainedConfig, shape: Shape) -> PretrainedConfig:
        own = self.shape(config)
        if (shape.d_model, shape.attention_width) != (own.d_model, own.attention_width):
            self._check_widths(shape)
        changed = copy.deepcopy(config)
        changed.num_layers, changed.num_decoder_layers = shape.encoder_layers, shape.decoder_layers
        changed.d_model, changed.d_ff = shape.d_model, shape.d_ff
        changed.num_heads, changed.d_kv = shape.num_heads, shape.d_kv
        return changed

    def new_config(self, shape: Shape, vocab_size: int) -> PretrainedConfig:
        config = T5Config(  # type: ignore[call-arg]
            vocab_size=vocab_size,
            feed_forward_proj="gated-gelu",
            # Transformers reads this as: T5 1.1, do not scale the decoder's output.
            tie_word_embeddings=False,
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

    def attention_scale(self, config: PretrainedConfig) -> float:
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
        # One position bias serves the self-attention of all blocks: a head is kept in all or none.
        shared = path[-1] == "SelfAttention" and not self.moves_with_block(_BIAS)
        heads = Units("num_heads", f"{path[0]}.SelfAttention" if shared else ".".join(path))
        if last == "relative_attention_bias":
            return None, heads
        return (RESIDUAL, heads) if last == "o" else (heads, RESIDUAL)

    def nearest(self, shape: Shape) -> Shape:
        # T5-3B's attention is exactly as wide as a student's may be; rounding can exceed the limit.
        return replace(
            shape, num_heads=min(shape.num_heads, max(1, _WIDEST * shape.d_model // shape.d_kv))
        )

    def keep_scales(
        self,
        weights: dict[str, torch.Tensor],
        config: PretrainedConfig,
        teacher_config: PretrainedConfig,
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
        # T5 1.1 and mT5 have a head of their own. With the embeddings' std of 1, the logits would
        # start with std √d_model and the loss far above ln(vocabulary). The published models used
        # d_model^-½.
        self.separate_head(model)
        nn.init.normal_(model.lm_head.weight, std=model.config.d_model**-0.5)

    def head_is_separate(self, names: Collection[str]) -> bool:
        return "lm_head.weight" in names and "shared.weight" in names

    def expects_separate_head(self, config: PretrainedConfig) -> bool:
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
                f"student: num_heads {shape.num_heads} × d_kv {shape.d_kv} = "
                f"{shape.attention_width} is more than {_WIDEST} × d_model {shape.d_model}: "
                "lower num_heads or d_kv"
            )

    def _scales_output(self, config: PretrainedConfig) -> bool:
        """Return whether the decoder's output is multiplied by d_model^-½ before the head.

        It is where the head is tied to the embeddings.
        """
        return getattr(config, "scale_decoder_outputs", False)


class UMT5(T5):
    """umT5 (Chung et al. 2023).

    Every block has a position bias of its own, and the output is scaled as T5 1.0's is.
    """

    model_types = ("umt5",)

    def moves_with_block(self, name: str) -> bool:
        return True

    def expects_separate_head(self, config: PretrainedConfig) -> bool:
        return True

    def _scales_output(self, config: PretrainedConfig) -> bool:
        return config.tie_word_embeddings
