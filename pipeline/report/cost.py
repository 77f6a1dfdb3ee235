"""What training a model costs in floating-point operations, by the usual estimate from weights and tokens."""

from __future__ import annotations

from pipeline.downstream.shape import ModelShape

#: Operations a weight and token: a multiplication and an addition forward, twice as many backward.
FORWARD, TRAINING = 2, 6


def passes_flops(shape: ModelShape, sources: int, targets: int, operations: int) -> float:
    """Operations of so many source and target tokens through a model: the 6·N·D of Kaplan et al. 2020 (arXiv 2001.08361).

    A source token passes through the encoder's weights, a target token through the decoder's and the LM head's; embeddings are
    look-ups, and attention's own products, a few per cent at these lengths, are left out, as is recomputation.
    operations: FORWARD or TRAINING.
    """
    decoder = shape.decoder_parameters + shape.head_parameters
    return float(operations) * (shape.encoder_parameters * sources + decoder * targets)
