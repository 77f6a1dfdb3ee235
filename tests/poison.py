"""Cached targets with numbers that are not finite."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.artifacts import Artifact, Output


def poison(root: Path, shard: int) -> int:
    """Make the cached states of a shard's last row NaN; its hashes and records fit. Returns that
    row."""
    artifact = Artifact(root)
    record, manifest = artifact.shards[shard], artifact.manifest
    columns = {
        name: artifact.rows(shard, slice(0, record.rows), (name,))[name].clone()
        for name in record.columns
    }
    columns["decoder_states"][-1] = torch.nan
    output = Output(
        root, "teacher_cache", manifest.payload, (root / "recipe.yaml").read_text(), manifest.inputs
    )
    output.write_shard(shard, columns, tokens=record.tokens, notes=record.notes)
    assert output.finish(len(manifest.shards), manifest.files)
    return record.rows - 1
