"""The interface of a family."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

#: The three attentions of an encoder-decoder model.
Attention = Literal["encoder_self", "decoder_self", "cross"]
Stack = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Projections:
    """The linear layers of one attention; their outputs have shape (batch, length, heads × head_dim)."""

    q: nn.Module
    k: nn.Module
    v: nn.Module


@dataclass(frozen=True)
class Head:
    """The LM head: logits = scale × hidden weightᵀ + bias, of the decoder's output after its final norm."""

    #: (vocabulary, d_model)
    weight: torch.Tensor
    scale: float
    #: Broadcasts to (vocabulary,); None where the family has none.
    bias: torch.Tensor | None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) from (…, d_model), operation for operation as the model itself does."""
        scaled = hidden if self.scale == 1.0 else hidden * self.scale
        logits = torch.nn.functional.linear(scaled, self.weight)
        return logits if self.bias is None else logits + self.bias


@dataclass(frozen=True)
class Shape:
    """The dimensions of an encoder-decoder model that a student may change."""

    encoder_layers: int
    decoder_layers: int
    d_model: int
    d_ff: int
    num_heads: int
    #: Width of one attention head.
    d_kv: int

    @property
    def attention_width(self) -> int:
        """Width of q, k and v."""
        return self.num_heads * self.d_kv


class Family(Protocol):
    #: `model_type`s of the configurations this family covers.
    model_types: tuple[str, ...]
    #: Whether fp16 overflows in it.
    overflows_in_fp16: bool

    def shape(self, config: Any) -> Shape: ...

    def with_shape(self, config: Any, shape: Shape) -> Any:
        """Return a copy of `config` of the given shape; raises ConfigError for a shape the family cannot have."""
        ...

    def new_config(self, shape: Shape, vocab_size: int) -> Any:
        """Return the configuration of a model made from nothing."""
        ...

    def blocks(self, model: PreTrainedModel, stack: Stack) -> nn.ModuleList: ...

    def projections(self, model: PreTrainedModel, attention: Attention, block: int) -> Projections: ...

    def head(self, model: PreTrainedModel) -> Head: ...

    def attention_scale(self, config: Any) -> float:
        """What attention scores q kᵀ are multiplied with."""
        ...

    def position_bias(
        self, model: PreTrainedModel, attention: Attention, block: int, rows: int, columns: int
    ) -> torch.Tensor | None:
        """Return what is added to the scores of an attention, (1, heads, rows, columns); None where the family adds nothing."""
        ...

    def block_prefix(self, stack: Stack, block: int) -> str:
        """Return the prefix of the parameter names of a block, with its final dot."""
        ...

    def moves_with_block(self, name: str) -> bool:
        """Whether the parameter `name` (within a block) belongs to the block, rather than to its place in the stack."""
        ...

    def initialise(self, model: PreTrainedModel) -> None:
        """Correct Transformers' random initialisation where it differs from the published one."""
        ...

    def head_is_separate(self, names: Collection[str]) -> bool:
        """Whether weights of these names hold an LM head of their own, rather than one tied to the embeddings."""
        ...

    def separate_head(self, model: PreTrainedModel) -> None:
        """Give `model` an LM head of its own, uninitialised, where Transformers built it tied."""
        ...

    def tail_state(
        self, model: PreTrainedModel, encoder_cut: int, decoder_cut: int
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return (configuration, weights) of the tail: the blocks from the cuts on, the final norms and the head."""
        ...

    def build_tail(self, config: Any, state: dict[str, torch.Tensor]) -> PreTrainedModel:
        """Return the tail as a model of the same class as the teacher.

        Fed with the hidden states at the cuts as `inputs_embeds` and `decoder_inputs_embeds`, its forward does what the
        teacher does after them, operation for operation.
        """
        ...
