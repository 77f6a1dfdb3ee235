"""The identity of an artifact: sha256 over canonical JSON of everything that decides its content.

It covers settings, input fingerprints, content hashes and a format version that is raised by hand.
It leaves out paths, world size and hardware. A value without a stable serialisation is refused
instead of guessed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

Payload = Mapping[str, Any]


def canonical_json(value: object) -> bytes:
    """Serialise `value` so that equal values give equal bytes on any machine.

    Raises TypeError for anything except dict with string keys, list, tuple, str, int, bool, None
    and finite float.
    """
    _check(value, "$")
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def fingerprint(payload: Payload) -> str:
    """Return the 64-digit hexadecimal sha256 of `payload`'s canonical JSON."""
    return hashlib.sha256(canonical_json(payload)).hexdigest()


def differences(old: object, new: object, path: str = "") -> list[str]:
    """Return the fields in which two payloads differ, as `section.field: old -> new`, sorted."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        fields = []
        for key in sorted(set(old) | set(new)):
            fields += differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return fields
    if canonical_json(old) == canonical_json(new):
        return []
    return [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:18] + "…" + text[-18:]


def _check(value: object, path: str) -> None:
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float) and math.isfinite(value):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{path}: key {key!r} is not a string")
            _check(item, f"{path}.{key}")
        return
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")
        return
    raise TypeError(f"{path}: {type(value).__name__} {value!r} has no stable serialisation")
