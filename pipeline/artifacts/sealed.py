"""JSON records that carry their own sha256: a flipped byte is detected and never used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.atomic import sha256_bytes, write_text

_SEAL = "checksum"


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record` (JSON values) to `path` atomically, with its hash under `checksum`."""
    write_text(path, _text({**record, _SEAL: sha256_bytes(_text(record).encode())}))


def unseal(data: bytes) -> dict[str, Any]:
    """Return the record that `write_sealed` wrote as `data`.

    Raises ValueError, saying why, if it is another one.
    """
    record = json.loads(data)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    seal = record.pop(_SEAL, None)
    if seal != sha256_bytes(_text(record).encode()):
        raise ValueError("its checksum does not fit")
    return record


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
