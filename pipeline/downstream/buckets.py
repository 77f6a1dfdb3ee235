"""Batches of examples of similar length: what is padded is neither stored nor computed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipeline.downstream.encode import round_up
from pipeline.training.order import Row, SampleOrder


class BucketedOrder(SampleOrder):
    """A `SampleOrder` whose batches are drawn `together` at a time, sorted by length, cut and shuffled.

    As there, the rows of a step are a pure function of (seed, step), the same for any number of ranks, found without replaying
    earlier steps; each epoch visits every row once.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, together: int) -> None:
        """lengths: what each row costs, e.g. its source's and target's tokens."""
        super().__init__([len(lengths)], batch_size, seed)
        self._lengths, self._together, self._key = lengths, together, seed
        self._batches = lru_cache(maxsize=2)(self._make_batches)

    def batch(self, step: int) -> list[Row]:
        group, place = divmod(step, self._together)
        return self._batches(group)[place]

    def _make_batches(self, group: int) -> list[list[Row]]:
        first = group * self._together
        drawn = [
            row
            for step in range(first, first + self._together)
            for row in super(BucketedOrder, self).batch(step)
        ]
        # Stable: rows that pad alike stay in the order they were drawn in. By row number, or by the last token of a target,
        # the batches of a file sorted by label would hold a label each.
        drawn.sort(key=lambda row: round_up(self._lengths[row[1]]))
        size = len(drawn) // self._together
        generator = np.random.Generator(
            np.random.Philox(key=[self._key, 0xB0C4], counter=[0, 0, 0, group])
        )
        return [
            drawn[place * size : (place + 1) * size]
            for place in generator.permutation(self._together)
        ]
