"""The shards that `--shards` chooses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.teacher.caching import chosen_shards


@given(st.integers(0, 50), st.integers(1, 60))
def test_every_nth_shard_goes_to_exactly_one_task(count: int, tasks: int) -> None:
    shares = [chosen_shards(f"{task}::{tasks}", count) for task in range(tasks)]
    assert sorted(index for share in shares for index in share) == list(range(count))


def test_shards_beyond_the_last_are_left_out() -> None:
    assert chosen_shards("3,7-9", 9) == [3, 7, 8]


@pytest.mark.parametrize("text", ["", "a", "3-", "1::0", "1;2", "-1"])
def test_other_words_for_shards_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shards"):
        chosen_shards(text, 10)
