"""A model without its weights: its configuration, and everything that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from pipeline.errors import ConfigError
from pipeline.families import Family, Shape, family_of
from pipeline.models import flops
from pipeline.models.counts import ParameterCounts
from pipeline.models.flops import Flops
from pipeline.models.size import Sizes

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
        """Return the architecture of a configuration.

        separate_head: None for the rule of the family, which is what its published models have.
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
        """The sizes of models that differ from this one in shape alone."""
        return Sizes(self)

    @cached_property
    def size(self) -> ParameterCounts:
        return self.sizes.of(self.shape)

    @property
    def model_type(self) -> str:
        return self.config.model_type

    @property
    def vocab_size(self) -> int:
        """The number of token ids the model knows."""
        return int(self.config.vocab_size)

    @property
    def head_size(self) -> int:
        """The number of rows of the LM head's weight."""
        return self.family.head_size(self.config)

    @property
    def pad_token_id(self) -> int:
        return int(self.config.pad_token_id)

    def with_shape(self, shape: Shape) -> Architecture:
        """Return the architecture with other dimensions.

        Raises ConfigError for a shape the family cannot have.
        """
        return Architecture(self.family.with_shape(self.config, shape), self.separate_head)

    def empty(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Return a model on the meta device: names and shapes of all weights, and no numbers."""
        return self.family.empty_model(self.config, self.separate_head, dtype)

    def check_dtype(self, dtype: str, setting: str) -> None:
        """Raise ConfigError if models of this family overflow in `dtype`.

        setting: the key of the recipe that asks for it.
        """
        if dtype == "float16" and self.family.overflows_in_fp16:
            raise ConfigError(
                f"{setting} float16: the feed-forward layers of {self.model_type} overflow in it; "
                "use bfloat16 or float32"
            )

    def check_length(self, length: int, setting: str) -> None:
        """Raise ConfigError if the model has no positions for `length` tokens.

        setting: the key of the recipe that asks for it.
        """
        longest = self.family.max_length(self.config)
        if longest is not None and length > longest:
            raise ConfigError(
                f"{setting} {length}: a {self.model_type} like this one has {longest} positions; "
                "lower it"
            )

    def forward_flops(
        self,
        source: int,
        target: int,
        *,
        logits: bool = True,
        decoder_blocks: int | None = None,
    ) -> Flops:
        """Return the operations of one example's forward pass.

        source, target: its lengths in tokens. logits: whether the LM head runs. decoder_blocks: the
        decoder stops after this many; None for all.
        """
        shape = self.shape
        if decoder_blocks is not None:
            shape = replace(shape, decoder_layers=decoder_blocks)
        return flops.forward_flops(
            shape, source, target, vocab_size=self.head_size, gated=self._gated, logits=logits
        )

    def training_flops(self, source: int, target: int) -> Flops:
        """Return the operations of one example's forward and backward pass."""
        return flops.training_flops(
            self.shape, source, target, vocab_size=self.head_size, gated=self._gated
        )

    def tail_flops(
        self, cuts: tuple[int, int], source: int, target: int, *, logits: bool = True
    ) -> Flops:
        """Return the operations of one example from the cuts (encoder, decoder) to the end."""
        return flops.tail_flops(
            self.shape,
            cuts,
            source,
            target,
            vocab_size=self.head_size,
            gated=self._gated,
            logits=logits,
        )

    @property
    def _gated(self) -> bool:
        return self.family.gated(self.config)
