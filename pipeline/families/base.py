"""The interface of a family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.initialization import no_init_weights

from pipeline.errors import ConfigError
from pipeline.families.units import Axes

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


class Family(ABC):
    """One architecture. A new one fills in the abstract methods; docs/families.md says what each must do."""

    #: `model_type`s of the configurations this family covers.
    model_types: tuple[str, ...]
    #: Whether fp16 overflows in it.
    overflows_in_fp16: bool

    @abstractmethod
    def shape(self, config: Any) -> Shape:
        """Return the shape a configuration describes; raises ConfigError for one that `Shape` cannot express."""

    @abstractmethod
    def with_shape(self, config: Any, shape: Shape) -> Any:
        """Return a copy of `config` of the given shape; raises ConfigError for a shape the family cannot have."""

    def new_config(self, shape: Shape, vocab_size: int) -> Any:
        """Return the configuration of a model made from nothing."""
        raise ConfigError(
            f"a {self.model_types[0]} is not made from nothing: name a teacher of that family"
        )

    def max_length(self, config: Any) -> int | None:
        """Return the longest sequence the model has positions for; None when any length will do."""
        return None

    def gated(self, config: Any) -> bool:
        """Return whether the feed-forward layers have three matrices, one of them a gate, rather than two."""
        return bool(getattr(config, "is_gated_act", False))

    def head_size(self, config: Any) -> int:
        """Return the number of rows of the LM head's weight."""
        return int(getattr(config, "decoder_vocab_size", None) or config.vocab_size)

    @abstractmethod
    def blocks(self, model: PreTrainedModel, stack: Stack) -> nn.ModuleList: ...

    @abstractmethod
    def projections(
        self, model: PreTrainedModel, attention: Attention, block: int
    ) -> Projections: ...

    def head(self, model: PreTrainedModel) -> Head:
        """Return the LM head."""
        return Head(model.lm_head.weight, 1.0, getattr(model, "final_logits_bias", None))

    def attention_scale(self, config: Any) -> float:
        """What attention scores q kᵀ are multiplied with."""
        return self.shape(config).d_kv ** -0.5

    def position_bias(
        self, model: PreTrainedModel, attention: Attention, block: int, rows: int, columns: int
    ) -> torch.Tensor | None:
        """Return what is added to the scores of an attention, (1, heads, rows, columns); None where the family adds nothing."""
        return None

    @abstractmethod
    def block_prefix(self, stack: Stack, block: int) -> str:
        """Return the prefix of the parameter names of a block, with its final dot."""

    @abstractmethod
    def axes(self, name: str) -> Axes:
        """Return the units along each axis of the weight `name`; a head's rows, or columns, lie side by side."""

    def implied(self, given: Mapping[str, int], d_kv: int) -> dict[str, int]:
        """Return the dimensions that follow from those `given` and the width of a head."""
        return {}

    def nearest(self, shape: Shape) -> Shape:
        """Return the shape this family can have that is nearest to `shape`, whose dimensions were rounded one by one."""
        return shape

    def keep_scales(  # noqa: B027 - most have no such factor
        self, weights: dict[str, torch.Tensor], config: Any, teacher_config: Any
    ) -> None:
        """Undo in weights cut from a teacher's what the model's own factors of d_model do differently at a smaller one.

        weights: all of a student's, changed in place; config: the student's.
        """

    def moves_with_block(self, name: str) -> bool:
        """Whether the parameter `name` (within a block) belongs to the block, rather than to its place in the stack."""
        return True

    def initialise(self, model: PreTrainedModel) -> None:  # noqa: B027 - most need no correction
        """Correct Transformers' random initialisation where it differs from the published one."""

    @abstractmethod
    def head_is_separate(self, names: Collection[str]) -> bool:
        """Whether weights of these names hold an LM head of their own, rather than one tied to the embeddings."""

    def expects_separate_head(self, config: Any) -> bool:
        """Whether published models of this configuration have a head of their own; where there are weights, they decide."""
        return False

    def separate_head(self, model: PreTrainedModel) -> None:
        """Give `model` an LM head of its own, uninitialised, where Transformers built it tied."""
        head: Any = model.lm_head
        model.lm_head = nn.Linear(
            model.config.d_model, head.out_features, bias=False, dtype=model.dtype
        )

    @abstractmethod
    def neutralise_inputs(self, model: PreTrainedModel) -> None:
        """Make all that a stack does before its first block leave `inputs_embeds` as they are, and drop its weights."""

    def tail_names(
        self, config: Any, encoder_cut: int, decoder_cut: int
    ) -> tuple[Any, dict[str, str]]:
        """Return the tail's configuration and, for each of its weights, the name it has in the whole model."""
        shape = self.shape(config)
        layers = {
            "encoder": shape.encoder_layers - encoder_cut,
            "decoder": shape.decoder_layers - decoder_cut,
        }
        tail_config = self.with_shape(
            config,
            replace(shape, encoder_layers=layers["encoder"], decoder_layers=layers["decoder"]),
        )
        names = {name: name for name in self._empty_tail(tail_config, torch.float32).state_dict()}
        stacks: tuple[tuple[Stack, int], ...] = (("encoder", encoder_cut), ("decoder", decoder_cut))
        for stack, cut in stacks:
            for block in range(layers[stack]):
                here, there = self.block_prefix(stack, block), self.block_prefix(stack, block + cut)
                for name in names:
                    if name.startswith(here) and self.moves_with_block(name.removeprefix(here)):
                        names[name] = there + name.removeprefix(here)
        return tail_config, names

    def tail_state(
        self, model: PreTrainedModel, encoder_cut: int, decoder_cut: int
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return (configuration, weights) of the tail: the blocks from the cuts on, the final norms and the head."""
        config, names = self.tail_names(model.config, encoder_cut, decoder_cut)
        whole = model.state_dict()
        return config, {name: whole[source] for name, source in names.items()}

    def build_tail(self, config: Any, state: dict[str, torch.Tensor]) -> PreTrainedModel:
        """Return the tail as a model of the same class as the teacher.

        Fed with the hidden states at the cuts as `inputs_embeds` and `decoder_inputs_embeds`, its forward does what the
        teacher does after them, operation for operation.
        """
        tail = self._empty_tail(config, state["lm_head.weight"].dtype)
        tail.load_state_dict(state, strict=True, assign=True)
        return tail.eval().requires_grad_(False)

    def empty_model(
        self, config: Any, separate_head: bool, dtype: torch.dtype = torch.float32
    ) -> PreTrainedModel:
        """Return a model without memory (on the meta device): names, shapes and ties of its weights are as in a real one."""
        with torch.device("meta"), no_init_weights():
            model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype)
            model.tie_weights()
            if separate_head:
                self.separate_head(model)
        return model

    def _empty_tail(self, config: Any, dtype: torch.dtype) -> PreTrainedModel:
        tail = self.empty_model(config, separate_head=False, dtype=dtype)
        self.neutralise_inputs(tail)
        return tail
