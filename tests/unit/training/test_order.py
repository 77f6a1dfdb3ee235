"""The rows of a batch are a pure function of (seed, step)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.order import SampleOrder

_shards = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda rows: sum(rows) > 0)


@given(_shards, st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_every_epoch_visits_every_row_once(
    shard_rows: list[int], batch: int, window: int, seed: int
) -> None:
    order = SampleOrder(shard_rows, batch, seed, window)
    total = sum(shard_rows)
    stream = [row for step in range(-(-2 * total // batch)) for row in order.batch(step)]
    everything = Counter(
        (shard, row) for shard, rows in enumerate(shard_rows) for row in range(rows)
    )
    assert Counter(stream[:total]) == everything
    assert Counter(stream[total : 2 * total]) == everything


def test_seeking_needs_no_replay_and_seeds_differ() -> None:
    first, late = SampleOrder([50, 60, 70], 8, 1), SampleOrder([50, 60, 70], 8, 1)
    replayed = [first.batch(step) for step in range(100)]
    assert late.batch(99) == replayed[99]
    assert SampleOrder([50, 60, 70], 8, 2).batch(0) != replayed[0]
    assert replayed[0] != first.batch(180 // 8), "another epoch has another order"


@given(st.sampled_from([(1, 12), (2, 6), (3, 2), (4, 3), (2, 3)]), st.integers(0, 50))
def test_ranks_and_micro_batches_share_the_same_global_batch(
    split: tuple[int, int], step: int
) -> None:
    world, micro = split
    order = SampleOrder([40, 30, 5], 12, 3)
    batches = [
        rows for rank in range(world) for rows in order.rank_batches(step, rank, world, micro)
    ]
    assert sorted(row for rows in batches for row in rows) == sorted(order.batch(step))
    assert all(rows == sorted(rows) and len(rows) == micro for rows in batches)
    in_turn = [
        order.rank_batches(step, rank, world, micro)[turn]
        for turn in range(12 // micro // world)
        for rank in range(world)
    ]
    assert in_turn == order.micro_batches(step, micro)
