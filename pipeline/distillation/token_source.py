"""The rows of distillation: token rows joined with each teacher's cached targets."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.artifacts import Artifact
from pipeline.artifacts.gather import Row, gather
from pipeline.distillation.sides import column_prefix
from pipeline.models.architecture import Architecture
from pipeline.teacher.cached_targets import CachedTargets, require_aligned
from pipeline.teacher.model_inputs import model_inputs
from pipeline.training.loader import Batch


class TokenSource:
    """Rows of a token artifact, with the cached targets of each side under its prefix.

    Raises StaleArtifact unless each cache shard was made from the bytes of its token shard. Raises
    CorruptArtifact at once, not after days, when a shard is missing or truncated.
    """

    def __init__(
        self,
        tokens: Artifact,
        architecture: Architecture,
        targets: Mapping[str, CachedTargets] | None = None,
    ) -> None:
        """Check that the shards fit.

        architecture: the student's, for its padding id and vocabulary. targets: by a side's prefix.
        """
        self._tokens, self._targets = tokens, dict(targets or {})
        self._pad, self._vocab_size = architecture.pad_token_id, architecture.vocab_size
        self.shard_rows = [shard.rows for shard in tokens.shards]
        tokens.require_sizes()
        for cached in self._targets.values():
            require_aligned(tokens, cached.cache)
            cached.cache.require_sizes()

    def read_ahead(self, shards: list[int]) -> None:
        """Bring shards of tokens and targets into the page cache."""
        for artifact in (self._tokens, *(cached.cache for cached in self._targets.values())):
            artifact.read_ahead(shards)

    def read(self, rows: list[Row]) -> Batch:
        """Return CPU tensors in the order of `rows`: model inputs, and each side's targets."""
        batch = model_inputs(gather(self._tokens, rows, ("input_ids", "labels")), self._pad)
        for prefix, cached in self._targets.items():
            columns = cached.read(rows, batch["labels"], self._vocab_size)
            start = column_prefix(prefix)
            batch |= {start + name: column for name, column in columns.items()}
        return batch
