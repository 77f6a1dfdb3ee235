"""A model without its weights: its configuration, and everything that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from pipeline.families import Family, Shape, check_dtype, check_length, family_of
from pipeline.models import flops
from pipeline.models.flops import Flops
from pipeline.models.size import Size, Sizes

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Architecture:
    """A Transformers configuration, and whether the LM head has weights of its own.

    The configuration alone does not say the latter: since release 5 of Transformers every T5
    configuration claims tied embeddings (docs/adr/0003).
    """

    config: PretrainedConfig
    separate_head: bool

    @classmethod
    def of(cls, config: PretrainedConfig, separate_head: bool | None = None) -> Architecture:
        """Return the architecture; what is published of the family decides when separate_head is None.

        Raises ConfigError for a model type that is not supported.
        """
        if separate_head is None:
            separate_head = family_of(config).expects_separate_head(config)
        return cls(config, separate_head)

    @cached_property
    def family(self) -> Family:
        return family_of(self.config)

    @cached_property
    def shape(self) -> Shape:
        return self.family.shape(self.config)

    @cached_property
    def sizes(self) -> Sizes:
        """Return the sizes of models that differ from this one in shape alone."""
        return Sizes(self.config, self.separate_head)

    @cached_property
    def size(self) -> Size:
        return self.sizes.of(self.shape)

    @property
    def model_type(self) -> str:
        return self.config.model_type

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids the model knows."""
        return int(self.config.vocab_size)

    @property
    def head_size(self) -> int:
        """Return the number of rows of the LM head's weight."""
        return self.family.head_size(self.config)

    @property
    def pad_token_id(self) -> int:
        return int(self.config.pad_token_id)

    def with_shape(self, shape: Shape) -> Architecture:
        """Return the architecture with other dimensions; raises ConfigError for a shape it cannot have."""
        return Architecture(self.family.with_shape(self.config, shape), self.separate_head)

    def check_dtype(self, dtype: str, setting: str) -> None:
        """Raise ConfigError when models of this family overflow in `dtype`; setting: the recipe's key."""
        check_dtype(self.config, dtype, setting)

    def check_length(self, length: int, setting: str) -> None:
        """Raise ConfigError when the model has no positions for `length` tokens; setting: the recipe's key."""
        check_length(self.config, length, setting)

    def empty(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Return a model on the meta device: everything except its numbers."""
        return self.family.empty_model(self.config, self.separate_head, dtype)

    def forward_flops(self, source: int, target: int, *, logits: bool = True) -> Flops:
        """Return the operations of one example's forward pass. source, target: its lengths in tokens."""
        gated = self.family.gated(self.config)
        return flops.forward_flops(
            self.shape, source, target, vocab_size=self.head_size, gated=gated, logits=logits
        )

    def training_flops(self, source: int, target: int) -> Flops:
        """Return the operations of one example's forward and backward pass."""
        gated = self.family.gated(self.config)
        return flops.training_flops(
            self.shape, source, target, vocab_size=self.head_size, gated=gated
        )

    def tail_flops(
        self, cuts: tuple[int, int], source: int, target: int, *, logits: bool = True
    ) -> Flops:
        """Return the operations of one example from the cuts (encoder, decoder) to the end."""
        gated = self.family.gated(self.config)
        return flops.tail_flops(
            self.shape, cuts, source, target, vocab_size=self.head_size, gated=gated, logits=logits
        )
