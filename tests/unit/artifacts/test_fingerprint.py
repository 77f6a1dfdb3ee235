"""Fingerprints of settings: the same content gives the same one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.artifacts import canonical_json, fingerprint
from pipeline.artifacts.fingerprint import differences


def test_fingerprints_depend_on_content_and_refuse_what_has_no_stable_form() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": (1.5, None), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.0}), "the type of a number is part of it"
    for value in ({"a": {1, 2}}, {"a": float("nan")}, {1: "a"}, {"a": Path("x")}):
        with pytest.raises(TypeError):
            canonical_json(value)
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}}) == [
        "a.c: 2 -> 3",
        "a.d: null -> 4",
    ]
