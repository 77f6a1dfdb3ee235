"""Where a teacher is cut: the block of each stack whose input is cached."""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.recipe import Cache


def resolve_cuts(settings: Cache, encoder_layers: int, decoder_layers: int) -> tuple[int, int]:
    """Return the cuts of the encoder and the decoder as block indices; raises ConfigError for no such block."""
    return (
        resolve_cut(settings.encoder_cut, encoder_layers, "encoder_cut"),
        resolve_cut(settings.decoder_cut, decoder_layers, "decoder_cut"),
    )


def resolve_cut(cut: int, layers: int, name: str) -> int:
    """Turn a cut (negative counts from the end) into a block index; raises ConfigError for no such block."""
    if not -layers <= cut < layers:
        raise ConfigError(f"cache.{name} {cut}: the teacher's stack has blocks 0 to {layers - 1}")
    return cut % layers
