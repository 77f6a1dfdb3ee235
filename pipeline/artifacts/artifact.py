"""Reading a finished artifact: shards are memory-mapped, and checked before their first use."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.artifacts.atomic import sha256_bytes, sha256_file
from pipeline.artifacts.manifest import (
    STAGES,
    ArtifactKind,
    InputRecord,
    Manifest,
    ShardRecord,
    read_manifest,
    shard_path,
    sidecar_path,
)
from pipeline.errors import CorruptArtifact, StaleArtifact

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.artifacts.mapped import MappedShard


class Pick(NamedTuple):
    """Rows of one shard, and their place in a batch."""

    shard: int
    #: int64 (rows,).
    rows: np.ndarray
    #: The batch index of the first row; the others follow it.
    start: int


class Artifact:
    """A complete artifact directory.

    Opening one reads the manifest alone. A shard's size and layout are checked when one of its rows
    is first read. Each row is checked by its checksum when this process first reads it, or another
    row of its block of small rows. A flipped byte stops the run with the shard's name and is never
    trained on. So a process reads what it needs, instead of every shard before the first row.
    """

    def __init__(self, root: Path, kind: ArtifactKind | None = None) -> None:
        self.root = Path(root)
        self.manifest: Manifest = read_manifest(self.root)
        if kind is not None and self.manifest.kind != kind:
            raise StaleArtifact(
                f"{self.root} holds {self.manifest.kind}, but {kind} is needed here"
            )
        self._open: dict[int, MappedShard] = {}
        self._opening = threading.Lock()

    @property
    def shards(self) -> list[ShardRecord]:
        return self.manifest.shards

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def as_input(self) -> InputRecord:
        """Return the record that a later artifact keeps of this one."""
        return InputRecord(
            fingerprint=self.fingerprint,
            manifest_sha256=sha256_bytes((self.root / "manifest.json").read_bytes()),
        )

    def rows(
        self, shard: int, rows: slice | Sequence[int], columns: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Read rows of some columns of one shard.

        Returns a tensor of shape (rows, *row_shape) per column in the stored dtype. Raises
        CorruptArtifact, as all methods that read do, naming the shard and how to rebuild it.
        """
        import numpy as np
        import torch

        count = self.shards[shard].rows
        indices = np.arange(count)[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        pick, tensors = self.pick(shard, indices, 0), {}
        for column in columns:
            dtype, row_shape = self.layout(column)
            tensors[column] = torch.empty((len(indices), *row_shape), dtype=dtype)
            self.copy_rows([pick], column, tensors[column])
        return tensors

    def layout(self, column: str) -> tuple[torch.dtype, list[int]]:
        """Return dtype and row shape of a column of fixed-size rows, the same in every shard."""
        import torch

        record = self.shards[0].columns[column]
        return getattr(torch, record.dtype), record.row_shape

    def pick(self, shard: int, rows: np.ndarray, start: int) -> Pick:
        """Return a `Pick` of existing rows; raises IndexError for others."""
        count = self.shards[shard].rows
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise IndexError(
                f"rows {rows.min()} to {rows.max()} of shard {shard}, which has {count}"
            )
        return Pick(shard, rows, start)

    def copy_rows(self, picks: Sequence[Pick], column: str, into: torch.Tensor) -> None:
        """Copy the picked rows of a column to their places in `into`.

        into: a CPU tensor (any, *row_shape) of the column's dtype.
        """
        from pipeline.artifacts.mapped import as_bytes

        batch = as_bytes(into)
        for pick in picks:
            target = batch[pick.start : pick.start + len(pick.rows)]
            try:  # not _explained: its cost shows for small rows
                self._mapped(pick.shard).copy(column, pick.rows, target)
            except ValueError as error:
                raise self._differs(pick.shard, error) from None

    def ragged_rows(self, shard: int, rows: Sequence[int], column: str) -> list[bytes]:
        """Read rows of a ragged column of one shard."""
        import numpy as np

        with self._explained(shard):
            return self._mapped(shard).strings(column, np.asarray(rows, np.int64))

    def read_ahead(self, shards: Sequence[int]) -> None:
        """Bring shards into the page cache, from end to end in large pieces.

        Does nothing if they need more than a quarter of the machine's memory. A shard that cannot
        be read is skipped: reading its rows raises the error.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if sum(self.shards[shard].bytes for shard in shards) > memory // 4:
            return
        for shard in shards:
            with contextlib.suppress(OSError), open(shard_path(self.root, shard), "rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def require_sizes(self) -> None:
        """Check every shard's size without reading it; raises CorruptArtifact for a wrong one."""
        for record in self.shards:
            self._require_size(record.index)

    def verify_shard(self, index: int) -> None:
        """Check the bytes of shard `index` against its record.

        Raises CorruptArtifact naming the file and how to rebuild it.
        """
        path = self._require_size(index)
        if sha256_file(path) != self.shards[index].sha256:
            raise CorruptArtifact(
                f"{path} is not what was written (sha256 differs): {self.rebuild_hint(index)}"
            )

    def _require_size(self, index: int) -> Path:
        path, expected = shard_path(self.root, index), self.shards[index].bytes
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CorruptArtifact(f"{path} is missing: {self.rebuild_hint(index)}") from None
        if size != expected:
            raise CorruptArtifact(
                f"{path} has {size} bytes instead of {expected}: {self.rebuild_hint(index)}"
            )
        return path

    def rebuild_hint(self, index: int) -> str:
        """Return how to rebuild shard `index` alone, for an error message."""
        sidecar = sidecar_path(self.root, index)
        return f"to rebuild this shard alone: rm {sidecar} && {self._command}"

    @property
    def _command(self) -> str:
        """The command that runs the stage of this artifact again."""
        kind = self.manifest.kind
        run = self.root.parents[{"distilled": 2, "finetune": 4}.get(kind, 1)]
        return f"python stages/{STAGES[kind]}.py --recipe {self.root / 'recipe.yaml'} run={run}"

    def verify_files(self) -> None:
        """Check the bytes of every named file; raises CorruptArtifact for a wrong one."""
        for name in self.manifest.files:
            self.verify_file(name)

    def verify_file(self, name: str, digest: Callable[[Path], str] = sha256_file) -> None:
        """Check the bytes of a named file against the manifest; raises CorruptArtifact.

        digest: returns a file's sha256.
        """
        record, path = self.manifest.files[name], self.root / name
        if (
            not path.is_file()
            or path.stat().st_size != record.bytes
            or digest(path) != record.sha256
        ):
            raise CorruptArtifact(
                f"{path} is not what was written: to write it again: "
                f"rm -f {path} {self.root / 'manifest.json'} && {self._command}"
            )

    def _mapped(self, index: int) -> MappedShard:
        shard = self._open.get(index)
        if shard is None:
            # By one of several threads: a second map of a file would map its pages again.
            with self._opening:
                shard = self._open.get(index)
                if shard is None:
                    shard = self._open[index] = self._map(index)
        return shard

    def _map(self, index: int) -> MappedShard:
        from pipeline.artifacts.mapped import MappedShard

        with self._explained(index):
            shard = MappedShard(self._require_size(index), self.shards[index])
        if not shard.has_checksums:  # written by an earlier release
            self.verify_shard(index)
        return shard

    @contextlib.contextmanager
    def _explained(self, shard: int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise self._differs(shard, error) from None

    def _differs(self, shard: int, error: ValueError) -> CorruptArtifact:
        path = shard_path(self.root, shard)
        return CorruptArtifact(
            f"{path} is not what was written ({error}): {self.rebuild_hint(shard)}"
        )
