"""Batches of similar length: every row once an epoch, and no label by itself."""

from __future__ import annotations

from pipeline.downstream.batches import BucketedOrder

ROWS, SIZE, TOGETHER = 640, 16, 8


def test_an_epoch_visits_every_row_once_in_batches_of_similar_length() -> None:
    lengths = [(37 * row) % 101 for row in range(ROWS)]
    order = BucketedOrder(lengths, SIZE, 3, TOGETHER)
    batches = [[row for _, row in order.batch(step)] for step in range(ROWS // SIZE)]
    assert sorted(row for batch in batches for row in batch) == list(range(ROWS))
    spans = [
        max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches
    ]
    assert sum(spans) / len(spans) < 101 / TOGETHER * 2


def test_rows_of_one_length_are_not_batched_by_their_position_in_a_sorted_file() -> None:
    labels = [row * 10 // ROWS for row in range(ROWS)]  # a file sorted by label
    lengths = [49 + label % 4 for label in labels]  # targets of another length for another label
    order = BucketedOrder(lengths, SIZE, 3, TOGETHER)
    kinds = [len({labels[row] for _, row in order.batch(step)}) for step in range(ROWS // SIZE)]
    assert min(kinds) >= 5, "16 rows drawn from 10 equal labels hold about 8 of them"
