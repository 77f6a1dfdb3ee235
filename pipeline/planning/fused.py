"""A stand-in for attention's fused kernels on the meta device, which has none.

PyTorch's own attention would make the scores there, and they would be counted. The stand-in
allocates and keeps what a fused kernel does. It is registered with Transformers under names of its
own, and `stand_in` gives a model one of these. The name is then a part of the model's
configuration, so the recomputation of activation checkpointing finds it too, where modes do not
reach.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import (
    create_position_bias_mask,
    sdpa_attention_forward,
)
from transformers.masking_utils import sdpa_mask

#: All attentions are fused, as on a GPU.
ON_GPU = "counted_on_gpu"
#: PyTorch keeps the scores where there is a learned position bias, as on a CPU.
ON_CPU = "counted_on_cpu"


def stand_in(model: PreTrainedModel, *, on_cpu: bool) -> None:
    """Let a model on the meta device compute attention by the stand-in."""
    model.set_attn_implementation(ON_CPU if on_cpu else ON_GPU)


def _on_gpu(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return attention's output (batch, length, heads, head size), as Transformers takes it.

    query, key, value: (batch, heads, length, head size). Masks are made as for PyTorch's own.
    """
    if position_bias is not None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        causal = query.shape[2] > 1 and attention_mask is None and causal
        attention_mask = create_position_bias_mask(
            position_bias, attention_mask, causal, query, key
        )
    out: Tensor = _FusedAttention.apply(query, key, value, attention_mask)
    return out.transpose(1, 2).contiguous(), None


def _on_cpu(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Do what `_on_gpu` does, but keep the scores where there is a learned position bias."""
    learned = position_bias is not None and position_bias.requires_grad
    attention = sdpa_attention_forward if learned else _on_gpu
    return attention(
        module, query, key, value, attention_mask, position_bias=position_bias, **settings
    )


class _FusedAttention(torch.autograd.Function):
    """Allocates and keeps what a fused kernel does.

    That is its inputs, its output and a log-sum-exp a row.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.empty_like(q)
        normaliser = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, k, v, bias, out, normaliser)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, _, _ = ctx.saved_tensors
        for_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[3] else None
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), for_bias


for _name, _attention in ((ON_GPU, _on_gpu), (ON_CPU, _on_cpu)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, sdpa_mask)
