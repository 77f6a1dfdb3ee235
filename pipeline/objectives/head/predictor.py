"""A model's prediction before any logits exist."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Predictor:
    """Hidden states and the LM head: logits = scale x hidden weight^T + bias."""

    #: (positions..., width), the decoder's output after its final norm.
    hidden: Tensor
    #: (vocabulary, width)
    weight: Tensor
    #: d_model^-0.5 in a T5 with tied embeddings.
    scale: float = 1.0
    #: (vocabulary,)
    bias: Tensor | None = None

    def detach(self) -> Predictor:
        """Return the same predictor without gradients."""
        bias = None if self.bias is None else self.bias.detach()
        return Predictor(self.hidden.detach(), self.weight.detach(), self.scale, bias)

    def cast(self) -> Predictor:
        """Return the predictor with its weight in the hidden states' dtype, as products need it."""
        return replace(self, weight=self.weight.to(self.hidden.dtype))

    def rows(self, part: slice) -> Predictor:
        """Return the predictor at some positions of a flat one, (positions, width)."""
        return replace(self, hidden=self.hidden[part])

    def columns(self, part: slice) -> Predictor:
        """Return the predictor of a slice of the vocabulary, its weight cast."""
        bias = None if self.bias is None else self.bias[part]
        return replace(self, weight=self.weight[part], bias=bias).cast()
