"""Floating-point operations of an encoder-decoder model, from its shape. No torch, no weights.

Counted: matrix products, a multiply and an add as two operations, for every position of a batch,
padded or not. Not counted: softmax, norms, embeddings, the optimizer (together below 1 % at real
widths), and anything computed twice to save memory. These are the conventions of Kaplan et al. 2020
(arXiv 2001.08361) and of PaLM's MFU (arXiv 2204.02311, appendix B). Attention products are counted
whole, causal or not, as `torch.utils.flop_counter` counts them.

Per example, with L input and T target tokens, width d, attention width a = heads × d_kv,
feed-forward width f in m matrices (3 when gated, else 2) and a vocabulary of V:

    encoder block     8 L d a + 4 L² a + 2 m L d f
    decoder block     8 T d a + 4 T² a + 2 m T d f
    cross-attention   4 T d a + 4 L d a + 4 L T a
    LM head           2 T d V

Cross-attention is in each decoder block; its terms are q and the output, k and v, and scores and
mixing. A backward pass costs twice its forward pass, so a training step is three forward passes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.families import Shape


class Flops(NamedTuple):
    """Operations by part of the model."""

    encoder: float
    #: The decoder's blocks without their cross-attention.
    decoder: float
    cross_attention: float
    head: float

    @property
    def total(self) -> float:
        return sum(self)


def forward_flops(
    shape: Shape,
    input_length: int,
    target_length: int,
    *,
    vocab_size: int,
    gated: bool,
    logits: bool = True,
) -> Flops:
    """Return the operations of one example's forward pass.

    vocab_size: rows of the LM head's weight (`Family.head_size`).
    gated: whether the feed-forward has three matrices (`Family.gated`).
    logits: whether the LM head runs.
    """
    source, target = float(input_length), float(target_length)
    width, attention, matrices = shape.d_model, shape.attention_width, 3 if gated else 2

    def block(length: float) -> float:
        return (
            8 * length * width * attention
            + 4 * length**2 * attention
            + 2 * matrices * length * width * shape.d_ff
        )

    cross = 4 * (target + source) * width * attention + 4 * source * target * attention
    return Flops(
        encoder=shape.encoder_layers * block(source),
        decoder=shape.decoder_layers * block(target),
        cross_attention=shape.decoder_layers * cross,
        head=2 * target * width * vocab_size if logits else 0.0,
    )


def training_flops(
    shape: Shape, input_length: int, target_length: int, *, vocab_size: int, gated: bool
) -> Flops:
    """Return the operations of one example's forward and backward pass.

    The second forward pass of activation checkpointing is not counted.
    """
    forward = forward_flops(shape, input_length, target_length, vocab_size=vocab_size, gated=gated)
    return Flops(*(3 * part for part in forward))


def tail_flops(
    shape: Shape,
    cuts: tuple[int, int],
    input_length: int,
    target_length: int,
    *,
    vocab_size: int,
    gated: bool,
    logits: bool = True,
) -> Flops:
    """Return the operations of replaying one example's tail.

    They are those of the blocks from `cuts` (encoder, decoder) on, and of the head if `logits`.
    shape: the whole teacher's. If the cache holds the encoder's output, cut the encoder at
    shape.encoder_layers.
    """
    tail = replace(
        shape,
        encoder_layers=shape.encoder_layers - cuts[0],
        decoder_layers=shape.decoder_layers - cuts[1],
    )
    return forward_flops(
        tail, input_length, target_length, vocab_size=vocab_size, gated=gated, logits=logits
    )
