"""Reading a finished artifact: shards are memory-mapped, and checked against their sidecars before first use."""

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
    InputRecord,
    Kind,
    Manifest,
    ShardRecord,
    read_manifest,
    shard_path,
)
from pipeline.errors import CorruptArtifact, StaleArtifact

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.artifacts.mapped import MappedShard


class Pick(NamedTuple):
    """Rows of one shard (int64), and where in a batch the first of them goes; the others follow it."""

    shard: int
    rows: np.ndarray
    start: int


class Artifact:
    """A complete artifact directory.

    Opening one reads the manifest alone. A shard's size and layout are checked when a row of it is read first, and each row by its
    checksum when this process first reads it, or one of its block of small rows: a flipped byte stops the run with the shard's name,
    and is never trained on. So a process reads what it needs, and not every shard from end to end before the first row.
    """

    def __init__(self, root: Path, kind: Kind | None = None) -> None:
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
        """The record a later artifact keeps of this one."""
        return InputRecord(
            fingerprint=self.fingerprint,
            manifest_sha256=sha256_bytes((self.root / "manifest.json").read_bytes()),
        )

    def rows(
        self, shard: int, rows: slice | Sequence[int], columns: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Read rows of some columns of one shard.

        Returns a tensor of shape (rows, *row_shape) per column in the stored dtype. Raises CorruptArtifact, as all that read do,
        naming the shard and the mend.
        """
        import numpy as np
        import torch

        index = (
            np.arange(self.shards[shard].rows)[rows]
            if isinstance(rows, slice)
            else np.asarray(rows, np.int64)
        )
        pick, found = self.pick(shard, index, 0), {}
        for column in columns:
            dtype, row_shape = self.layout(column)
            found[column] = torch.empty((len(index), *row_shape), dtype=dtype)
            self.copy_rows([pick], column, found[column])
        return found

    def layout(self, column: str) -> tuple[torch.dtype, list[int]]:
        """The dtype of a column of fixed-size rows and the shape of a row, the same in every shard."""
        import torch

        about = self.shards[0].columns[column]
        return getattr(torch, about.dtype), about.row_shape

    def pick(self, shard: int, rows: np.ndarray, start: int) -> Pick:
        """Return a `Pick` of rows that are there; raises IndexError for others."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.shards[shard].rows:
            raise IndexError(
                f"rows {rows.min()} to {rows.max()} of shard {shard}, which has {self.shards[shard].rows}"
            )
        return Pick(shard, rows, start)

    def copy_rows(self, picks: Sequence[Pick], column: str, into: torch.Tensor) -> None:
        """Copy the picked rows of a column to their places in `into`, a CPU tensor (any, *row_shape) of the column's dtype."""
        from pipeline.artifacts.mapped import as_bytes

        batch = as_bytes(into)
        for pick in picks:
            try:  # not _explained, whose cost shows where rows are small
                self._mapped(pick.shard).copy(
                    column, pick.rows, batch[pick.start : pick.start + len(pick.rows)]
                )
            except ValueError as error:
                raise self._differs(pick.shard, error) from None

    def ragged_rows(self, shard: int, rows: Sequence[int], column: str) -> list[bytes]:
        """Read rows of a ragged column of one shard."""
        import numpy as np

        with self._explained(shard):
            return self._mapped(shard).strings(column, np.asarray(rows, np.int64))

    def read_ahead(self, shards: Sequence[int]) -> None:
        """Bring shards into the page cache, from end to end in large pieces; does nothing when memory cannot hold them all.

        A shard that cannot be read is passed over here: whoever reads its rows says what is wrong.
        """
        size = sum(self.shards[shard].bytes for shard in shards)
        if (
            not hasattr(os, "posix_fadvise")
            or size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
        ):
            return
        for shard in shards:
            with contextlib.suppress(OSError), open(shard_path(self.root, shard), "rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def require_sizes(self) -> None:
        """Look at the size of every shard, without reading any; raises CorruptArtifact for one that is not whole."""
        for record in self.shards:
            self._require_size(record.index)

    def verify_shard(self, index: int) -> None:
        """Check the bytes of shard `index` against its record; raises CorruptArtifact naming the file and the mend."""
        path = self._require_size(index)
        if sha256_file(path) != self.shards[index].sha256:
            raise CorruptArtifact(
                f"{path} is not what was written (sha256 differs): {self.mend(index)}"
            )

    def _require_size(self, index: int) -> Path:
        path, expected = shard_path(self.root, index), self.shards[index].bytes
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CorruptArtifact(f"{path} is missing: {self.mend(index)}") from None
        if size != expected:
            raise CorruptArtifact(
                f"{path} has {size} bytes instead of {expected}: {self.mend(index)}"
            )
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
        if (
            not path.is_file()
            or path.stat().st_size != record.bytes
            or digest(path) != record.sha256
        ):
            raise CorruptArtifact(
                f"{path} is not what was written: to write it anew: rm -f {path} {self.root / 'manifest.json'} && {self._command}"
            )

    def _mapped(self, index: int) -> MappedShard:
        found = self._open.get(index)
        if found is None:
            with (
                self._opening
            ):  # by one of several threads: a second map of the same file would map its pages again
                found = self._open.get(index)
                if found is None:
                    found = self._open[index] = self._map(index)
        return found

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
        return CorruptArtifact(f"{path} is not what was written ({error}): {self.mend(shard)}")
