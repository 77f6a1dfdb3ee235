"""Reading a finished artifact: shards are memory-mapped, and checked against their sidecars before first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.atomic import sha256_bytes, sha256_file
from pipeline.artifacts.manifest import STAGES, InputRecord, Kind, Manifest, ShardRecord, read_manifest, shard_path
from pipeline.errors import CorruptArtifact, StaleArtifact

if TYPE_CHECKING:
    import torch


class Artifact:
    """A complete artifact directory.

    Opening one reads the manifest alone. A shard's size and sha256 are checked the first time a row of it is read, once per
    process: a flipped byte stops the run with the shard's name, and is never trained on.
    """

    def __init__(self, root: Path, kind: Kind | None = None) -> None:
        self.root = Path(root)
        self.manifest: Manifest = read_manifest(self.root)
        if kind is not None and self.manifest.kind != kind:
            raise StaleArtifact(f"{self.root} holds {self.manifest.kind}, but {kind} is needed here")
        self._open: dict[int, Any] = {}

    @property
    def shards(self) -> list[ShardRecord]:
        return self.manifest.shards

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def as_input(self) -> InputRecord:
        """The record a later artifact keeps of this one."""
        return InputRecord(
            fingerprint=self.fingerprint, manifest_sha256=sha256_bytes((self.root / "manifest.json").read_bytes())
        )

    def rows(self, shard: int, rows: slice | Sequence[int], columns: Sequence[str]) -> dict[str, torch.Tensor]:
        """Read rows of some columns of one shard.

        Returns a tensor of shape (rows, *row_shape) per column in the stored dtype; a slice is one sequential read.
        """
        import torch

        handle = self._handle(shard)
        found = {}
        for column in columns:
            view = handle.get_slice(column)
            found[column] = view[rows] if isinstance(rows, slice) else torch.stack([view[int(row)] for row in rows])
        return found

    def ragged_rows(self, shard: int, rows: Sequence[int], column: str) -> list[bytes]:
        """Read rows of a ragged column of one shard; raises CorruptArtifact when its offsets do not fit its bytes."""
        handle = self._handle(shard)
        data, offsets = handle.get_slice(column), handle.get_slice(f"{column}.offsets")
        size, found = data.get_shape()[0], []
        for row in rows:
            start, end = (int(value) for value in offsets[int(row) : int(row) + 2])
            if not 0 <= start <= end <= size:
                raise CorruptArtifact(
                    f"{shard_path(self.root, shard)}: row {row} of {column} lies outside it: {self.mend(shard)}"
                )
            found.append(data[start:end].numpy().tobytes())
        return found

    def require_sizes(self) -> None:
        """Look at the size of every shard, without reading any; raises CorruptArtifact for one that is not whole."""
        for record in self.shards:
            self._require_size(record.index)

    def verify_shard(self, index: int) -> None:
        """Check the bytes of shard `index` against its record; raises CorruptArtifact naming the file and the mend."""
        path = self._require_size(index)
        if sha256_file(path) != self.shards[index].sha256:
            raise CorruptArtifact(f"{path} is not what was written (sha256 differs): {self.mend(index)}")

    def _require_size(self, index: int) -> Path:
        path, expected = shard_path(self.root, index), self.shards[index].bytes
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CorruptArtifact(f"{path} is missing: {self.mend(index)}") from None
        if size != expected:
            raise CorruptArtifact(f"{path} has {size} bytes instead of {expected}: {self.mend(index)}")
        return path

    def mend(self, index: int) -> str:
        """Say how shard `index` alone is rebuilt."""
        return f"to rebuild this shard alone: rm {shard_path(self.root, index).with_suffix('.json')} && {self._command}"

    @property
    def _command(self) -> str:
        """What runs the stage that made this artifact once more."""
        kind = self.manifest.kind
        run = self.root.parents[{"distilled": 2, "finetune": 4}.get(kind, 1)]
        return f"python stages/{STAGES[kind]}.py --recipe {self.root / 'recipe.yaml'} run={run}"

    def verify_file(self, name: str, digest: Callable[[Path], str] = sha256_file) -> None:
        """Check the bytes of a named file against the manifest; raises CorruptArtifact. digest: gives a file's sha256."""
        record, path = self.manifest.files[name], self.root / name
        if not path.is_file() or path.stat().st_size != record.bytes or digest(path) != record.sha256:
            raise CorruptArtifact(
                f"{path} is not what was written: to write it anew: rm -f {path} {self.root / 'manifest.json'} && {self._command}"
            )

    def _handle(self, index: int) -> Any:
        if index not in self._open:
            from safetensors import safe_open

            self.verify_shard(index)
            self._open[index] = safe_open(shard_path(self.root, index), framework="pt")
        return self._open[index]
