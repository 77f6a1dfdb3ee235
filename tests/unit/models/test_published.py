"""Published shapes have the parameters of the published weights."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.models.published import describe, published

#: Parameters of the published weights, as the hub counts them.
PUBLISHED = {
    "google-t5/t5-small": 60_506_624,
    "google-t5/t5-base": 222_903_552,
    "google-t5/t5-large": 737_668_096,
    "google-t5/t5-3b": 2_851_598_336,
    "google/t5-v1_1-small": 76_961_152,
    "google/t5-v1_1-base": 247_577_856,
    "google/flan-t5-xl": 2_849_757_184,
    "google/mt5-small": 300_176_768,
    "google/mt5-base": 582_401_280,
    "facebook/bart-base": 139_420_416,
    "facebook/bart-large": 406_291_456,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_a_published_shape_has_the_published_parameters(name: str, count: int) -> None:
    architecture = describe(name).architecture
    assert sum(weight.numel() for weight in architecture.empty().parameters()) == count
    assert architecture.size.total == count


def test_every_published_shape_can_be_built() -> None:
    for name in published():
        assert describe(name).architecture.size.blocks > 0, name


def test_an_unknown_model_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"model runs/x/hf: no such directory"):
        describe("runs/x/hf")
