"""Shards divided among the tasks of an array."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.slurm.shards import split_shards
from pipeline.teacher.caching import chosen_shards


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(1, 20))
def test_every_shard_goes_to_exactly_one_task(shards: set[int], tasks: int) -> None:
    words = split_shards(sorted(shards), tasks)
    assert len(words) == min(tasks, len(shards))
    shares = [chosen_shards(word, 201) for word in words]
    assert sorted(index for share in shares for index in share) == sorted(shards)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
