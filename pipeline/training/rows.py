"""Distillation's rows: token rows joined with the teacher's cached targets."""

from __future__ import annotations

import torch

from pipeline.artifacts import Artifact
from pipeline.errors import StaleArtifact
from pipeline.teacher.rows import model_inputs
from pipeline.training.loader import Batch
from pipeline.training.order import Row


class TokenSource:
    """Rows of a token artifact, with the teacher's states where a cache is given.

    Raises StaleArtifact unless cache shard i was made from the very bytes of token shard i.
    """

    def __init__(self, tokens: Artifact, cache: Artifact | None, pad_token_id: int) -> None:
        self._tokens, self._cache, self._pad = tokens, cache, pad_token_id
        self.shard_rows = [shard.rows for shard in tokens.shards]
        if cache is not None:
            _require_aligned(tokens, cache)

    def read(self, rows: list[Row]) -> Batch:
        batch = model_inputs(self._gather(self._tokens, rows, ("input_ids", "labels")), self._pad)
        if self._cache is not None:
            batch |= self._gather(self._cache, rows, ("encoder_states", "decoder_states"))
        return batch

    @staticmethod
    def _gather(artifact: Artifact, rows: list[Row], columns: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Read rows shard by shard, then put them in the order asked for."""
        parts: dict[str, list[torch.Tensor]] = {column: [] for column in columns}
        places: list[int] = []
        for shard in sorted({shard for shard, _ in rows}):
            mine = [(row, place) for place, (which, row) in enumerate(rows) if which == shard]
            places += [place for _, place in mine]
            for column, tensor in artifact.rows(shard, [row for row, _ in mine], columns).items():
                parts[column].append(tensor)
        order = torch.tensor(places).argsort()
        # Unsigned integers cannot be indexed on every backend, so ids are widened first.
        return {name: torch.cat([_widened(t) for t in tensors])[order] for name, tensors in parts.items()}


def _require_aligned(tokens: Artifact, cache: Artifact) -> None:
    if len(tokens.shards) != len(cache.shards):
        raise StaleArtifact(
            f"{cache.root} has {len(cache.shards)} shards, {tokens.root} has {len(tokens.shards)}: cache again"
        )
    for ours, theirs in zip(tokens.shards, cache.shards, strict=True):
        if theirs.notes.get("token_shard_sha256") != ours.sha256 or theirs.rows != ours.rows:
            raise StaleArtifact(
                f"shard {ours.index} of {cache.root} was not made from shard {ours.index} of {tokens.root}: "
                "remove its sidecar and run cache_teacher again"
            )


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int64) if tensor.dtype in (torch.uint16, torch.uint32) else tensor
