"""Writing an artifact so that it can be killed at any instruction.

Shards are written first, their sidecars after them, and the manifest last.
"""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.artifacts import atomic, lock
from pipeline.artifacts.fingerprint import Payload, canonical_json, differences, fingerprint
from pipeline.artifacts.manifest import (
    SCHEMA_VERSION,
    ArtifactKind,
    FileRecord,
    InputRecord,
    Manifest,
    ShardRecord,
    read_manifest,
    read_sidecar,
    shard_path,
    sidecar_path,
)
from pipeline.artifacts.sealed import unseal, write_sealed
from pipeline.errors import DISK_REMEDIES, ArtifactError, CorruptArtifact, StaleArtifact

if TYPE_CHECKING:
    from pipeline.artifacts.shard import Rows


class Output:
    """An artifact directory being made, or already complete.

    `complete` says whether anything is left to do, `begin` starts it, and both refuse a directory
    that was made from something else. `missing` says which shards are left. Several processes may
    write different shards of one Output without locks. The process that calls `finish` when every
    shard exists writes the manifest; doing so twice is harmless.
    """

    def __init__(
        self,
        root: Path,
        kind: ArtifactKind,
        payload: Payload,
        recipe: str,
        inputs: Mapping[str, InputRecord],
    ) -> None:
        self.root = Path(root)
        self.kind: ArtifactKind = kind
        self.payload = dict(payload)
        self.fingerprint = fingerprint(payload)
        self.recipe = recipe
        self.inputs = dict(inputs)

    def complete(self) -> bool:
        """Return whether the finished artifact exists.

        Raises StaleArtifact if it was made from something else.
        """
        if not (self.root / "manifest.json").exists():
            self._refuse_stale(self._started_payload())
            return False
        manifest = read_manifest(self.root)
        self._refuse_stale(manifest.payload)
        return all(self._record(record.index) is not None for record in manifest.shards) and all(
            (self.root / name).is_file() for name in manifest.files
        )

    def begin(self, *, alone: bool = False) -> None:
        """Create the directory and record what it is made from, before the first byte of content.

        alone: only one process at a time may make this artifact; raises ArtifactError while another
            one does.
        """
        self.complete()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if alone:
                self._lock = lock.hold(self.root)
                self.complete()  # another process may have begun it from something else meanwhile
            # First: a directory with other files but without this one counts as foreign.
            write_sealed(
                self.root / "fingerprint.json",
                {"fingerprint": self.fingerprint, "payload": self.payload},
            )
            atomic.write_text(self.root / "recipe.yaml", self.recipe)
        except OSError as error:
            remedy = DISK_REMEDIES.get(error.errno or 0, "choose another `run`")
            raise ArtifactError(
                f"cannot write to {self.root}: {error.strerror}; {remedy}"
            ) from error
        for directory in (self.root, self.root / "shards"):
            atomic.remove_temporaries(directory)

    def missing(self, count: int) -> list[int]:
        """Return the shards below `count` that are absent or do not fit their sidecar."""
        return [index for index in range(count) if self._record(index) is None]

    def write_shard(
        self,
        index: int,
        columns: Mapping[str, Rows],
        *,
        tokens: int,
        notes: Mapping[str, Any] | None = None,
    ) -> ShardRecord:
        """Write shard `index` in one go, and then its sidecar.

        columns: as for `ShardWriter.append`.
        """
        writer = self.shard(index, len(next(iter(columns.values()))))
        try:
            writer.append(columns)
            return writer.finish(tokens=tokens, notes=notes)
        except BaseException:
            writer.discard()
            raise

    def shard(self, index: int, rows: int) -> ShardWriter:
        """Begin shard `index` with `rows` rows."""
        return ShardWriter(self, index, rows)

    def finish(
        self,
        shards: int = 0,
        files: Iterable[str] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> bool:
        """Write the manifest if shards 0…`shards`-1 all exist; returns whether it was written."""
        records = [record for index in range(shards) if (record := self._record(index)) is not None]
        if len(records) < shards:
            return False
        entries = {name: self._file_record(name) for name in sorted(files)}
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            kind=self.kind,
            name=self.root.name,
            fingerprint=self.fingerprint,
            payload=self.payload,
            inputs=self.inputs,
            shards=records,
            files=entries,
            totals={
                "rows": sum(r.rows for r in records),
                "tokens": sum(r.tokens for r in records),
                "bytes": sum(r.bytes for r in records) + sum(f.bytes for f in entries.values()),
            },
            provenance=_provenance() | dict(provenance or {}),
        )
        write_sealed(self.root / "manifest.json", manifest.model_dump())
        return True

    def _file_record(self, name: str) -> FileRecord:
        path = self.root / name
        return FileRecord(bytes=path.stat().st_size, sha256=atomic.sha256_file(path))

    def _record(self, index: int) -> ShardRecord | None:
        """Return the sidecar of shard `index` if it is intact, of this artifact and fits."""
        try:
            record = read_sidecar(self.root, index)
        except CorruptArtifact:
            return None
        path = shard_path(self.root, index)
        if record is None or record.fingerprint != self.fingerprint or not path.is_file():
            return None
        return record if path.stat().st_size == record.bytes else None

    def _started_payload(self) -> Mapping[str, Any] | None:
        """Return what the directory is being made from, or None if it was not begun."""
        path = self.root / "fingerprint.json"
        if not path.exists():
            # Temporary files and the lock alone mean that a process was killed at the beginning of
            # `begin`, or is there now.
            entries = self.root.iterdir() if self.root.is_dir() else ()
            foreign = any(
                not atomic.is_temporary(entry) and entry.name != lock.NAME for entry in entries
            )
            # Asked again: the entries may be the first files of a process that began in between.
            if foreign and not path.exists():
                raise StaleArtifact(
                    f"{self.root} is not empty and not an artifact of this pipeline: "
                    "choose another `run`"
                )
            if not foreign:
                return None
        try:
            payload: Mapping[str, Any] = unseal(path.read_bytes())["payload"]
        except (ValueError, KeyError):
            raise CorruptArtifact(
                f"{path} is damaged: remove {self.root} and run the stage again"
            ) from None
        return payload

    def _refuse_stale(self, payload: Mapping[str, Any] | None) -> None:
        if payload is None or canonical_json(payload) == canonical_json(self.payload):
            return
        changed = "; ".join(differences(payload, self.payload)[:6])
        raise StaleArtifact(
            f"{self.root} was made from something else ({changed}): "
            "give this run another name, or remove that directory to make it again"
        )


class ShardWriter:
    """A shard being written, some rows at a time; no file has its name before `finish`."""

    def __init__(self, output: Output, index: int, rows: int) -> None:
        from pipeline.artifacts.shard import ShardFile

        self._output, self._index, self._rows = output, index, rows
        self._path = shard_path(output.root, index)
        with self._explained():
            self._file = ShardFile(self._path, rows)

    def append(self, columns: Mapping[str, Rows]) -> None:
        """Write the next rows of every column.

        columns: CPU tensors (rows, *row_shape), or byte strings for a ragged column.
        """
        with self._explained():
            self._file.append(columns)

    def finish(self, *, tokens: int, notes: Mapping[str, Any] | None = None) -> ShardRecord:
        """Put the file in its place, and then its sidecar.

        tokens: the number of tokens in the shard's rows.
        notes: facts to keep in the sidecar.
        """
        with self._explained():
            size, digest = self._file.publish()
            record = ShardRecord(
                index=self._index,
                fingerprint=self._output.fingerprint,
                rows=self._rows,
                tokens=tokens,
                bytes=size,
                sha256=digest,
                columns=self._file.columns,
                notes=dict(notes or {}),
            )
            write_sealed(sidecar_path(self._output.root, self._index), record.model_dump())
        return record

    def discard(self) -> None:
        """Remove what was written so far."""
        self._file.discard()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArtifactError(
                f"cannot write {self._path}: {error.strerror}; "
                "free some space and run the same command again, finished shards are kept"
            ) from error


def _provenance() -> dict[str, Any]:
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "miniend": __version__,
        "python": platform.python_version(),
        "command": " ".join(Path(arg).name if i == 0 else arg for i, arg in enumerate(sys.argv)),
    }
