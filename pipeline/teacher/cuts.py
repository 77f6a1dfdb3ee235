"""The cuts of a teacher: the block of each stack whose input is cached."""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.recipe import Cache


def resolve_cuts(settings: Cache, encoder_layers: int, decoder_layers: int) -> tuple[int, int]:
    """Return the cuts of the encoder and the decoder as block indices.

    Raises ConfigError when there is no such block.
    """
    return (
        resolve_cut(settings.encoder_cut, encoder_layers, "encoder_cut"),
        resolve_cut(settings.decoder_cut, decoder_layers, "decoder_cut"),
    )


def resolve_cut(cut: int, layers: int, name: str) -> int:
    """Return the block index of a cut, which may be negative and then counts from the end.

    Raises ConfigError when there is no such block.
    """
    if not -layers <= cut < layers:
        raise ConfigError(f"cache.{name} {cut}: the teacher's stack has blocks 0 to {layers - 1}")
    return cut % layers
