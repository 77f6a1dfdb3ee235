"""BART (Lewis et al. 2020), mBART, Marian and Pegasus.

They have absolute positions, layer norms, biases and two equal stacks. They differ in three things:

- Norms are after each sublayer (BART, Marian), or before it and at the end of a stack (mBART,
  Pegasus).
- Positions are learned (BART, mBART) or sinusoidal.
- The embeddings have a norm (BART, mBART) or none.

All of it is in the modules a model has; the tail keeps what comes after the first block's input.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families.base import Attention, Family, Projections, Shape, Stack
from pipeline.families.units import RESIDUAL, Axes, Units


class _NoPositions(nn.Module):
    """Stand-in for position embeddings that were already added."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # Adding +0.0 would turn -0.0 into +0.0. Adding -0.0 changes no number at all (IEEE 754,
        # round to nearest).
        return torch.tensor(-0.0)


class Bart(Family):
    model_types: tuple[str, ...] = ("bart", "mbart", "marian")
    overflows_in_fp16 = False

    def shape(self, config: PretrainedConfig) -> Shape:
        for width in ("attention_heads", "ffn_dim"):
            encoder = getattr(config, f"encoder_{width}")
            decoder = getattr(config, f"decoder_{width}")
            if encoder != decoder:
                raise ConfigError(
                    f"encoder_{width} {encoder} and decoder_{width} {decoder} of this "
                    f"{config.model_type} differ: only stacks of equal widths are supported"
                )
        return Shape(
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            d_model=config.d_model,
            d_ff=config.encoder_ffn_dim,
            num_heads=config.encoder_attention_heads,
            d_kv=config.d_model // config.encoder_attention_heads,
        )

    def with_shape(self, config: PretrainedConfig, shape: Shape) -> PretrainedConfig:
        if shape.d_model % shape.num_heads or shape.d_model % 2:
            raise ConfigError(
                f"student.d_model {shape.d_model} must be even and a multiple of "
                f"student.num_heads {shape.num_heads}: the heads of a {config.model_type} share it"
            )
        if shape.attention_width != shape.d_model:
            raise ConfigError(
                f"student.d_kv {shape.d_kv} with num_heads {shape.num_heads} and "
                f"d_model {shape.d_model}: the heads of a {config.model_type} share d_model, "
                f"so set d_kv to {shape.d_model // shape.num_heads}"
            )
        changed = copy.deepcopy(config)
        changed.encoder_layers, changed.decoder_layers = shape.encoder_layers, shape.decoder_layers
        changed.d_model = shape.d_model
        changed.encoder_ffn_dim = changed.decoder_ffn_dim = shape.d_ff
        changed.encoder_attention_heads = changed.decoder_attention_heads = shape.num_heads
        return changed

    def max_length(self, config: PretrainedConfig) -> int | None:
        return config.max_position_embeddings

    def blocks(self, model: PreTrainedModel, stack: Stack) -> nn.ModuleList:
        return getattr(model.model, stack).layers

    def projections(self, model: PreTrainedModel, attention: Attention, block: int) -> Projections:
        stack: Stack = "encoder" if attention == "encoder_self" else "decoder"
        layer: Any = self.blocks(model, stack)[block]
        module = layer.encoder_attn if attention == "cross" else layer.self_attn
        return Projections(module.q_proj, module.k_proj, module.v_proj)

    def block_prefix(self, stack: Stack, block: int) -> str:
        return f"model.{stack}.layers.{block}."

    def axes(self, name: str) -> Axes:
        if name == "final_logits_bias":
            return None, None
        *path, last, kind = name.split(".")
        inner, heads = Units("d_ff", ".".join(path)), Units("num_heads", ".".join(path))
        projections: dict[str, Axes] = {
            "fc1": (inner, RESIDUAL),
            "fc2": (RESIDUAL, inner),
            "q_proj": (heads, RESIDUAL),
            "k_proj": (heads, RESIDUAL),
            "v_proj": (heads, RESIDUAL),
            "out_proj": (RESIDUAL, heads),
        }
        if last in ("shared", "embed_tokens", "embed_positions", "lm_head"):
            return None, RESIDUAL
        return projections.get(last, (RESIDUAL,))[: 2 if kind == "weight" else 1]

    def implied(self, given: Mapping[str, int], d_kv: int) -> dict[str, int]:
        if "d_model" in given and "num_heads" not in given:
            return {"num_heads": max(1, given["d_model"] // d_kv)}
        if "num_heads" in given and "d_model" not in given:
            return {"d_model": given["num_heads"] * d_kv}
        return {}

    def nearest(self, shape: Shape) -> Shape:
        return replace(shape, d_model=shape.attention_width)

    def keep_scales(
        self,
        weights: dict[str, torch.Tensor],
        config: PretrainedConfig,
        teacher_config: PretrainedConfig,
    ) -> None:
        if not config.scale_embedding:
            return
        # Embedded tokens are multiplied by √d_model. The head, where it is tied to them, is not.
        ratio = (teacher_config.d_model / config.d_model) ** 0.5
        for name, weight in weights.items():
            if name.endswith(("shared.weight", "embed_tokens.weight")):
                weight *= ratio
        if not self.head_is_separate(weights):
            last = self.block_prefix("decoder", config.decoder_layers - 1) + "final_layer_norm"
            norm = (
                "model.decoder.layer_norm" if "model.decoder.layer_norm.weight" in weights else last
            )
            weights[f"{norm}.weight"] /= ratio
            weights[f"{norm}.bias"] /= ratio

    def head_is_separate(self, names: Collection[str]) -> bool:
        # A Marian with two vocabularies has no shared embeddings; its head is tied to those of the
        # decoder.
        embeddings = {"model.shared.weight", "model.decoder.embed_tokens.weight"}
        return "lm_head.weight" in names and not embeddings.isdisjoint(names)

    def neutralise_inputs(self, model: PreTrainedModel) -> None:
        inner: Any = model.model
        if hasattr(inner, "shared"):
            inner.shared = nn.Identity()
        for stack in (inner.encoder, inner.decoder):
            stack.embed_tokens, stack.embed_positions = nn.Identity(), _NoPositions()
            if hasattr(stack, "layernorm_embedding"):
                stack.layernorm_embedding = nn.Identity()
            # Pegasus and Marian scale everything that enters the decoder, embedded tokens or not.
            stack.embed_scale = 1.0


class Pegasus(Bart):
    """Pegasus (Zhang et al. 2020), pretrained in bf16."""

    model_types = ("pegasus",)
    overflows_in_fp16 = True
