"""The interface of a family, and what all families share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from pipeline.errors import ConfigError
from pipeline.families.units import Axes

#: The three attentions of an encoder-decoder model.
Attention = Literal["encoder_self", "decoder_self", "cross"]
Stack = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Projections:
    """The linear layers of one attention.

    Their outputs have shape (batch, length, heads × head_dim).
    """

    q: nn.Module
    k: nn.Module
    v: nn.Module


@dataclass(frozen=True)
class Head:
    """The LM head: logits = scale × hidden weightᵀ + bias.

    hidden is the decoder's output after its final norm.
    """

    #: (vocabulary, d_model)
    weight: torch.Tensor
    scale: float
    #: Broadcasts to (vocabulary,); None where the family has none.
    bias: torch.Tensor | None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) from (…, d_model), with the operations of the model itself."""
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
        """The width of q, k and v."""
        return self.num_heads * self.d_kv


class Family(ABC):
    """The differences between architectures, behind one interface.

    A new family fills in the abstract methods; docs/families.md says what each must do.
    """

    #: `model_type`s of the configurations this family covers.
    model_types: tuple[str, ...]
    #: Whether fp16 overflows in it.
    overflows_in_fp16: bool

    @abstractmethod
    def shape(self, config: PretrainedConfig) -> Shape:
        """Return the shape of a configuration; raises ConfigError if `Shape` cannot express it."""

    @abstractmethod
    def with_shape(self, config: PretrainedConfig, shape: Shape) -> PretrainedConfig:
        """Return a copy of `config` with another shape.

        Raises ConfigError for a shape the family cannot have.
        """

    def new_config(self, shape: Shape, vocab_size: int) -> PretrainedConfig:
        """Return the configuration of a model made from nothing."""
        raise ConfigError(
            f"a {self.model_types[0]} is not made from nothing: name a teacher of that family"
        )

    def max_length(self, config: PretrainedConfig) -> int | None:
        """Return the longest sequence the model has positions for; None if there is no limit."""
        return None

    def gated(self, config: PretrainedConfig) -> bool:
        """Return whether the feed-forward layers have a third matrix, a gate."""
        return bool(getattr(config, "is_gated_act", False))

    def head_size(self, config: PretrainedConfig) -> int:
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

    def attention_scale(self, config: PretrainedConfig) -> float:
        """Return the factor of the attention scores q kᵀ."""
        return self.shape(config).d_kv ** -0.5

    def position_bias(
        self, model: PreTrainedModel, attention: Attention, block: int, rows: int, columns: int
    ) -> torch.Tensor | None:
        """Return what is added to the scores of an attention, (1, heads, rows, columns).

        None if the family adds nothing.
        """
        return None

    @abstractmethod
    def block_prefix(self, stack: Stack, block: int) -> str:
        """Return the prefix of the parameter names of a block, with its final dot."""

    @abstractmethod
    def axes(self, name: str) -> Axes:
        """Return the units along each axis of the weight `name`.

        A head's rows, or columns, lie next to each other.
        """

    def implied(self, given: Mapping[str, int], d_kv: int) -> dict[str, int]:
        """Return the dimensions that follow from those `given` and from d_kv."""
        return {}

    def nearest(self, shape: Shape) -> Shape:
        """Return the nearest shape that this family can have.

        The dimensions of `shape` were rounded one by one.
        """
        return shape

    def keep_scales(  # noqa: B027 - most have no such factor
        self,
        weights: dict[str, torch.Tensor],
        config: PretrainedConfig,
        teacher_config: PretrainedConfig,
    ) -> None:
        """Rescale weights that were cut from a wider teacher's, in place.

        The model multiplies by factors of d_model, which differ at a smaller d_model; the rescaling
        makes up for it. weights: all of the student's. config: the student's.
        """

    def moves_with_block(self, name: str) -> bool:
        """Return whether a parameter moves when its block moves to another index of the stack.

        name: within the block. A parameter that does not move belongs to the index.
        """
        return True

    def initialise(self, model: PreTrainedModel) -> None:  # noqa: B027 - most need no correction
        """Correct Transformers' random weights where they differ from the published recipe."""

    @abstractmethod
    def head_is_separate(self, names: Collection[str]) -> bool:
        """Return whether weights of these names hold an LM head that is not tied to embeddings."""

    def expects_separate_head(self, config: PretrainedConfig) -> bool:
        """Return whether published models of this configuration have an LM head of their own.

        Where there are weights, `head_is_separate` decides.
        """
        return False

    def separate_head(self, model: PreTrainedModel) -> None:
        """Give `model` an LM head of its own, uninitialised, where Transformers built it tied."""
        head: Any = model.lm_head
        model.lm_head = nn.Linear(
            model.config.d_model, head.out_features, bias=False, dtype=model.dtype
        )

    @abstractmethod
    def neutralise_inputs(self, model: PreTrainedModel) -> None:
        """Make everything before a stack's first block the identity, and drop its weights.

        `inputs_embeds` then enter the first block unchanged.
        """

    def tail_names(
        self, config: PretrainedConfig, encoder_cut: int, decoder_cut: int
    ) -> tuple[PretrainedConfig, dict[str, str]]:
        """Return the tail's configuration, and for each of its weights the name in the model."""
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
                own = self.block_prefix(stack, block)
                teachers = self.block_prefix(stack, block + cut)
                for name in names:
                    if name.startswith(own) and self.moves_with_block(name.removeprefix(own)):
                        names[name] = teachers + name.removeprefix(own)
        return tail_config, names

    def tail_state(
        self, model: PreTrainedModel, encoder_cut: int, decoder_cut: int
    ) -> tuple[PretrainedConfig, dict[str, torch.Tensor]]:
        """Return the configuration and the weights of the tail.

        The tail is the blocks from the cuts on, the final norms and the head.
        """
        config, names = self.tail_names(model.config, encoder_cut, decoder_cut)
        whole = model.state_dict()
        return config, {name: whole[source] for name, source in names.items()}

    def build_tail(
        self, config: PretrainedConfig, state: dict[str, torch.Tensor]
    ) -> PreTrainedModel:
        """Return the tail as a model of the same class as the teacher.

        Its forward takes the hidden states at the cuts as `inputs_embeds` and
        `decoder_inputs_embeds`. It does what the teacher does after them, operation for operation.
        """
        tail = self._empty_tail(config, state["lm_head.weight"].dtype)
        tail.load_state_dict(state, strict=True, assign=True)
        return tail.eval().requires_grad_(False)

    def empty_model(
        self, config: PretrainedConfig, separate_head: bool, dtype: torch.dtype = torch.float32
    ) -> PreTrainedModel:
        """Return a model without memory, on the meta device.

        Names, shapes and ties of its weights are those of a real model.
        """
        with torch.device("meta"), no_init_weights():
            model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config, dtype=dtype)
            model.tie_weights()
            if separate_head:
                self.separate_head(model)
        return model

    def _empty_tail(self, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
        tail = self.empty_model(config, separate_head=False, dtype=dtype)
        self.neutralise_inputs(tail)
        return tail
