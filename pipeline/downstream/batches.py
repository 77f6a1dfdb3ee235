"""Encoded examples as batches for the training loop, each of examples of similar length.

Padding that is left out is neither stored nor computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from pipeline.downstream.encode import Encoded, pad, round_up
from pipeline.training.order import Row, SampleOrder

#: The label that the loss ignores, as everywhere in Transformers.
IGNORED = -100


class EncodedSource:
    """A `BatchSource` over encoded examples, held in memory as one shard."""

    def __init__(self, encoded: Encoded, pad_token_id: int) -> None:
        count = len(encoded.sources)
        self.shard_rows = [count]
        self.mean_target_tokens = sum(map(len, encoded.targets)) / count
        #: The cost of each row in tokens. Padded, so that label texts of other lengths do not tell
        #: rows apart, and sorting does not group batches by label.
        self.lengths = [
            round_up(len(source)) + round_up(len(target))
            for source, target in zip(encoded.sources, encoded.targets, strict=True)
        ]
        self._encoded, self._pad = encoded, pad_token_id

    def read_ahead(self, shards: Sequence[int]) -> None:
        """Do nothing: all is in memory."""

    def read(self, rows: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of some (shard, row), padded to the longest of these rows.

        input_ids, attention_mask (rows, source) and labels (rows, target), all int64.
        """
        sources = [self._encoded.sources[row] for _, row in rows]
        targets = [self._encoded.targets[row] for _, row in rows]
        length = round_up(max(map(len, sources)))
        return {
            "input_ids": pad(sources, self._pad, length),
            "attention_mask": pad([[1] * len(source) for source in sources], 0, length),
            "labels": pad(targets, IGNORED, round_up(max(map(len, targets)))),
        }


class BucketedOrder(SampleOrder):
    """A `SampleOrder` whose batches are drawn `together` at a time, sorted by length and shuffled.

    The rows of a step stay a pure function of (seed, step), the same for any number of ranks, found
    without replaying earlier steps. Each epoch visits every row once.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, together: int) -> None:
        """lengths: the cost of each row, e.g. the tokens of its source and target."""
        super().__init__([len(lengths)], batch_size, seed)
        self._lengths, self._together, self._key = lengths, together, seed
        self._batches = lru_cache(maxsize=2)(self._make_batches)

    def batch(self, step: int) -> list[Row]:
        group, index = divmod(step, self._together)
        return self._batches(group)[index]

    def _make_batches(self, group: int) -> list[list[Row]]:
        first = group * self._together
        rows = [
            row
            for step in range(first, first + self._together)
            for row in super(BucketedOrder, self).batch(step)
        ]
        # Stable: rows of the same padded length stay in the order in which they were drawn. By row
        # number, or by the last token of a target, a file sorted by label would give batches of a
        # single label each.
        rows.sort(key=lambda row: round_up(self._lengths[row[1]]))
        size = len(rows) // self._together
        generator = np.random.Generator(
            np.random.Philox(key=[self._key, 0xB0C4], counter=[0, 0, 0, group])
        )
        order = generator.permutation(self._together)
        return [rows[index * size : (index + 1) * size] for index in order]
