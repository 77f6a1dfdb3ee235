"""The identity of a source of text. No heavy imports."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.artifacts.atomic import sha256_file
from pipeline.errors import DataError


def source_hash(source: str, *, again: bool = False) -> str:
    """Identify a source of text: a file by its bytes, a `hub:` dataset by its name.

    A file is hashed once a process; `again` looks whether it is still what it was.
    """
    return _source_hash.__wrapped__(source) if again else _source_hash(source)


@cache
def _source_hash(source: str) -> str:
    if source.startswith("hub:"):
        return source
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{source} does not exist (for a datasets name write hub:NAME)")
    return sha256_file(path)
