"""The teacher's blocks that a student starts from."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.student.blocks import chosen_blocks


def test_blocks_are_evenly_spaced_with_both_ends() -> None:
    assert chosen_blocks("uniform", "encoder", 12, 6) == [[0], [2], [4], [7], [9], [11]]
    assert chosen_blocks("uniform", "encoder", 4, 4) == [[0], [1], [2], [3]]
    assert chosen_blocks("uniform", "decoder", 24, 1) == [[23]]
    with pytest.raises(ConfigError, match="cannot be copied"):
        chosen_blocks("uniform", "encoder", 2, 3)
