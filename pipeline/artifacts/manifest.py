"""The records next to the data: a sidecar per shard; one manifest per artifact, written last."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.artifacts.atomic import sha256_bytes
from pipeline.artifacts.sealed import unseal
from pipeline.errors import CorruptArtifact, IncompleteArtifact

#: Raise it when a reader of an older release could misread a directory of this one.
SCHEMA_VERSION: Final = 1

ArtifactKind = Literal[
    "tokenizer",
    "tokens",
    "teacher_cache",
    "distill",
    "distill_interpolated",
    "distilled",
    "finetune",
]

#: The script that makes each kind.
STAGES: dict[ArtifactKind, str] = {
    "tokenizer": "tokenize_corpus",
    "tokens": "tokenize_corpus",
    "teacher_cache": "cache_teacher",
    "distill": "distill",
    "distill_interpolated": "distill_interpolated",
    "distilled": "finetune",
    "finetune": "finetune",
}

#: Bytes of an element, by torch's name of its dtype.
_ELEMENT_BYTES = {
    **dict.fromkeys(("int8", "uint8"), 1),
    **dict.fromkeys(("float16", "bfloat16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    "int64": 8,
}


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


RecordT = TypeVar("RecordT", bound=_Record)


class Column(_Record):
    """One column of every shard. The rows of a ragged column are byte strings."""

    #: Torch's name of the dtype.
    dtype: str
    row_shape: list[NonNegativeInt]
    ragged: bool = False

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        if dtype not in _ELEMENT_BYTES:
            raise ValueError(f"dtype {dtype!r} is none of {', '.join(_ELEMENT_BYTES)}")
        return dtype

    @property
    def least_row_bytes(self) -> int:
        """Bytes of a row; for a ragged column, of a row's offset."""
        return 8 if self.ragged else _ELEMENT_BYTES[self.dtype] * math.prod(self.row_shape)


class ShardRecord(_Record):
    """The sidecar of a shard; if it exists and fits, the shard is complete."""

    index: NonNegativeInt
    fingerprint: str
    rows: NonNegativeInt
    tokens: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str
    columns: dict[str, Column]
    #: Facts that a stage adds, e.g. the sha256 of the token shard that a cache shard belongs to, or
    #: its fidelity figures.
    notes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> ShardRecord:
        # Checked before an array of `rows` rows is allocated.
        least = self.rows * sum(column.least_row_bytes for column in self.columns.values())
        if least > self.bytes or (self.rows and not least):
            raise ValueError(f"{self.rows} rows do not fit into {self.bytes} bytes")
        return self


class FileRecord(_Record):
    """A file of an artifact that is no shard."""

    bytes: NonNegativeInt
    sha256: str


class InputRecord(_Record):
    """Another artifact that an artifact was made from."""

    fingerprint: str
    manifest_sha256: str


class Manifest(_Record):
    """The record of a complete artifact; it does not exist before the artifact is complete."""

    schema_version: Literal[1]
    kind: ArtifactKind
    name: str
    fingerprint: str
    payload: dict[str, Any]
    inputs: dict[str, InputRecord]
    shards: list[ShardRecord]
    files: dict[str, FileRecord]
    totals: dict[str, int]
    #: Where and when: versions, host, time, world size. Never part of an identity.
    provenance: dict[str, Any]

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"file {name!r} points outside the artifact")
        return files

    @field_validator("shards")
    @classmethod
    def _in_order(cls, shards: list[ShardRecord]) -> list[ShardRecord]:
        if [shard.index for shard in shards] != list(range(len(shards))):
            raise ValueError("its shards are not numbered 0, 1, 2 …")
        return shards

    def content_hash(self) -> str:
        """Return the hash of shards and files, the same whenever and wherever they were made."""
        parts = [f"{s.index}:{s.sha256}" for s in self.shards]
        parts += [f"{name}:{record.sha256}" for name, record in sorted(self.files.items())]
        return sha256_bytes("\n".join(parts).encode())


def shard_path(root: Path, index: int) -> Path:
    return root / "shards" / f"{index:05d}.safetensors"


def sidecar_path(root: Path, index: int) -> Path:
    return root / "shards" / f"{index:05d}.json"


def read_manifest(root: Path) -> Manifest:
    """Load `root/manifest.json`.

    Raises IncompleteArtifact if it is absent, and CorruptArtifact if it does not parse.
    """
    path = root / "manifest.json"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        state = "was not finished" if (root / "fingerprint.json").exists() else "does not exist"
        raise IncompleteArtifact(f"{root} {state}: run the stage that makes it first") from None
    return _parse(Manifest, text, path)


def read_sidecar(root: Path, index: int) -> ShardRecord | None:
    """Return the record of shard `index`, or None if there is none."""
    path = sidecar_path(root, index)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    record = _parse(ShardRecord, text, path)
    if record.index != index:
        raise CorruptArtifact(
            f"{path} describes shard {record.index}, not {index}: remove it and run the stage again"
        )
    return record


def _parse(model: type[RecordT], text: bytes, path: Path) -> RecordT:
    try:
        return model.model_validate(unseal(text))
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(str(part) for part in first['loc']) or 'the file'}: {first['msg']}"
    except ValueError as error:
        reason = str(error)
    raise CorruptArtifact(f"{path} is damaged ({reason}): remove it and run its stage again")
