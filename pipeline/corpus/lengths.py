"""Division of an example's tokens by T5's span corruption. Imports neither numpy nor torch."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import ConfigError


class Lengths(NamedTuple):
    """Token counts of one example; the same for all examples."""

    raw: int
    noise: int
    spans: int

    @property
    def input(self) -> int:
        """Kept tokens, a sentinel per span, EOS."""
        return self.raw - self.noise + self.spans + 1

    @property
    def target(self) -> int:
        """Noise tokens, a sentinel per span, EOS."""
        return self.noise + self.spans + 1


def lengths_of(raw: int, noise_density: float, mean_span_length: float) -> Lengths:
    """Return how `raw` tokens (at least 2) are divided.

    round(raw * density) of them are noise, in round(noise / mean) spans.
    """
    noise = min(max(round(raw * noise_density), 1), raw - 1)
    return Lengths(raw, noise, max(round(noise / mean_span_length), 1))


def example_lengths(input_length: int, noise_density: float, mean_span_length: float) -> Lengths:
    """Return the lengths with the most raw tokens whose corrupted inputs fill `input_length`.

    The inputs include EOS. 512 at density 0.15 and mean 3 gives 568 raw tokens, 85 of them noise in
    28 spans: 512 inputs and 114 targets. Raises ConfigError if no such lengths exist or spans would
    touch each other.
    """
    settings = (
        f"tokens.input_length={input_length}, noise_density={noise_density}, "
        f"mean_span_length={mean_span_length}"
    )
    # One more raw token makes the inputs longer by 0 or 1, so the largest that fits fills them.
    low, high = 1, 2
    while lengths_of(high, noise_density, mean_span_length).input <= input_length:
        if high > 1000 * input_length:
            raise ConfigError(f"{settings}: nearly everything is noise; lower tokens.noise_density")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        fits = lengths_of(middle, noise_density, mean_span_length).input <= input_length
        low, high = (middle, high) if fits else (low, middle)
    if low < 2:
        raise ConfigError(
            f"{settings}: too short for one span; set tokens.input_length to 3 or more"
        )
    lengths = lengths_of(low, noise_density, mean_span_length)
    kept = lengths.raw - lengths.noise
    if lengths.spans > kept or lengths.spans > lengths.noise:
        raise ConfigError(
            f"{settings}: {lengths.spans} spans do not fit between {kept} kept tokens; "
            "lower tokens.noise_density or raise tokens.mean_span_length"
        )
    return lengths
