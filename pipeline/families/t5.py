"""T5 (Raffel et al. 2020), T5 v1.1 and Flan-T5: relative position bias in block 0, RMS norms, unscaled attention."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, T5Config

from pipeline.errors import ConfigError
from pipeline.families.base import Attention, Head, Projections, Shape, Stack

#: Held by block 0 alone, and used by all blocks of its stack.
_BIAS = "SelfAttention.relative_attention_bias.weight"
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


class T5:
    model_types: tuple[str, ...] = ("t5",)
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
        if shape.d_model % 2:
            raise ConfigError(f"student.d_model {shape.d_model} is odd: choose a multiple of 8")
        if shape.attention_width > 4 * shape.d_model:
            raise ConfigError(
                f"student: num_heads {shape.num_heads} × d_kv {shape.d_kv} = {shape.attention_width} is more than "
                f"4 × d_model {shape.d_model}: lower num_heads or d_kv"
            )
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
        scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0
        return Head(model.lm_head.weight, scale, None)

    def attention_scale(self, config: Any) -> float:
        return 1.0

    def position_bias(
        self, model: PreTrainedModel, attention: Attention, block: int, rows: int, columns: int
    ) -> torch.Tensor | None:
        if attention == "cross":
            return None
        layers: Any = self.blocks(model, "encoder" if attention == "encoder_self" else "decoder")[0].layer
        return layers[0].SelfAttention.compute_bias(rows, columns)

    def block_prefix(self, stack: Stack, block: int) -> str:
        return f"{stack}.block.{block}."

    def moves_with_block(self, name: str) -> bool:
        return not name.endswith(_BIAS)

    def initialise(self, model: PreTrainedModel) -> None:
        if model.config.scale_decoder_outputs:
            return
        # T5 1.1 has a head of its own. With the embeddings' std of 1 the logits would start with std √d_model and the loss
        # far above ln(vocabulary); the published models used d_model^-½.
        self.separate_head(model)
        nn.init.normal_(model.lm_head.weight, std=model.config.d_model**-0.5)

    def head_is_separate(self, names: Collection[str]) -> bool:
        return "lm_head.weight" in names and "shared.weight" in names

    def separate_head(self, model: PreTrainedModel) -> None:
        config, dtype = model.config, model.dtype
        model.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False, dtype=dtype)

    def tail_state(
        self, model: PreTrainedModel, encoder_cut: int, decoder_cut: int
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        shape = self.shape(model.config)
        config = copy.deepcopy(model.config)
        config.num_layers = shape.encoder_layers - encoder_cut
        config.num_decoder_layers = shape.decoder_layers - decoder_cut
        with torch.device("meta"):
            names = AutoModelForSeq2SeqLM.from_config(config).state_dict()
        whole = model.state_dict()
        state = {name: whole[self._name_before_the_cut(name, encoder_cut, decoder_cut)] for name in names}
        # The inputs are hidden states, so no token is ever looked up: of the embeddings one row is kept.
        state |= {name: state[name][:1].clone() for name in _EMBEDDINGS}
        return config, state

    def build_tail(self, config: Any, state: dict[str, torch.Tensor]) -> PreTrainedModel:
        with torch.device("meta"):
            tail = AutoModelForSeq2SeqLM.from_config(config, dtype=state["lm_head.weight"].dtype)
        for name in _EMBEDDINGS:
            tail.get_submodule(name.removesuffix(".weight")).weight = nn.Parameter(state[name])
        tail.load_state_dict(state, strict=True, assign=True)
        return tail.eval().requires_grad_(False)

    def _name_before_the_cut(self, name: str, encoder_cut: int, decoder_cut: int) -> str:
        # Transformers gives the position bias to the first block of a stack, in the tail as in the whole model.
        if name.endswith(_BIAS):
            return name
        for stack, cut in (("encoder", encoder_cut), ("decoder", decoder_cut)):
            prefix = f"{stack}.block."
            if name.startswith(prefix):
                index, rest = name.removeprefix(prefix).split(".", 1)
                return f"{prefix}{int(index) + cut}.{rest}"
        return name
