"""Distillation's rows: token rows joined with the teacher's cached targets."""

from __future__ import annotations

from typing import Any

from pipeline.artifacts import Artifact
from pipeline.artifacts.gather import Row, gather
from pipeline.teacher.cached_targets import CachedTargets, require_aligned
from pipeline.teacher.model_inputs import model_inputs
from pipeline.training.loader import Batch

#: Before the names of a second teacher's targets in a batch.
ORIGINAL = "original."


class TokenSource:
    """Rows of a token artifact, with cached targets where they are given; a second teacher's under names of their own.

    Raises StaleArtifact unless cache shard i was made from the very bytes of token shard i, and CorruptArtifact at once, and
    not after days, when a shard is missing or cut short.
    """

    def __init__(
        self,
        tokens: Artifact,
        targets: CachedTargets | None,
        config: Any,
        original: CachedTargets | None = None,
    ) -> None:
        """config: the student's, for its padding id and vocabulary."""
        self._tokens = tokens
        self._targets = [
            (prefix, found)
            for prefix, found in (("", targets), (ORIGINAL, original))
            if found is not None
        ]
        self._pad, self._vocab_size = config.pad_token_id, config.vocab_size
        self.shard_rows = [shard.rows for shard in tokens.shards]
        tokens.require_sizes()
        for _, found in self._targets:
            require_aligned(tokens, found.cache)
            found.cache.require_sizes()

    def read_ahead(self, shards: list[int]) -> None:
        for artifact in (self._tokens, *(found.cache for _, found in self._targets)):
            artifact.read_ahead(shards)

    def read(self, rows: list[Row]) -> Batch:
        batch = model_inputs(gather(self._tokens, rows, ("input_ids", "labels")), self._pad)
        for prefix, targets in self._targets:
            found = targets.read(rows, batch["labels"], self._vocab_size)
            batch |= {prefix + name: column for name, column in found.items()}
        return batch


def originals(batch: Batch) -> Batch:
    """The batch as a second teacher's side sees it: its targets under their plain names."""
    return batch | {
        name.removeprefix(ORIGINAL): column
        for name, column in batch.items()
        if name.startswith(ORIGINAL)
    }
