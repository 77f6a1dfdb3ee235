"""Files that are either whole or absent: write to a temporary name, fsync, rename, fsync the directory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

_TEMPORARY_PREFIX = ".tmp-"
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; the parent directory is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def publish_directory(temporary: Path, final: Path) -> None:
    """Flush every file below `temporary` and rename it to `final`, which must not exist."""
    for file in sorted(temporary.rglob("*")):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    temporary.rename(final)
    fsync_directory(final.parent)


def fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process on any node of a shared filesystem takes."""
    return path.with_name(f"{_TEMPORARY_PREFIX}{_HOST}-{os.getpid()}-{path.name}")


def is_temporary(path: Path) -> bool:
    """Whether `path` is named as a file that was not finished."""
    return path.name.startswith(_TEMPORARY_PREFIX)


def remove_temporaries(directory: Path) -> None:
    """Remove what earlier, killed processes of this machine left half-written in `directory`."""
    mine = f"{_TEMPORARY_PREFIX}{_HOST}-"
    for leftover in directory.glob(f"{mine}*"):
        pid = leftover.name.removeprefix(mine).split("-", 1)[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as handle:
        return (
            hashlib.file_digest(handle, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest(handle)
        )


def _digest(handle: Any) -> str:
    # Python 3.10 has no hashlib.file_digest.
    digest = hashlib.sha256()
    while chunk := handle.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
