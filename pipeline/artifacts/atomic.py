"""Files that are either complete or absent.

Each is written to a temporary name, flushed and renamed; then its directory is flushed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from typing import BinaryIO

_TEMPORARY_PREFIX = ".tmp-"
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; makes the parent directory if it is missing."""
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


def write_json(path: Path, value: object) -> None:
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
    """Return a name next to `path` that no other process on a shared filesystem takes."""
    return path.with_name(f"{_TEMPORARY_PREFIX}{_HOST}-{os.getpid()}-{path.name}")


def is_temporary(path: Path) -> bool:
    """Return whether `path` has the name of an unfinished file."""
    return path.name.startswith(_TEMPORARY_PREFIX)


def remove_temporaries(directory: Path) -> None:
    """Remove files in `directory` that killed processes of this machine left unfinished."""
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
        if hasattr(hashlib, "file_digest"):
            return hashlib.file_digest(handle, "sha256").hexdigest()
        return _digest(handle)  # Python 3.10


def _digest(handle: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := handle.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
