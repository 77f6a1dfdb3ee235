"""The files of a run, read leniently, so that a run in progress can be reported.

A file that is absent or half-written gives None, or nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import DataError
from pipeline.recipe import Recipe
from pipeline.status.progress import read_json


def manifest_of(root: Path) -> dict[str, Any] | None:
    """Return the manifest of a finished artifact."""
    return read_json(root / "manifest.json")


def identity_of(root: Path) -> dict[str, Any]:
    """Return `fingerprint` and `payload` of an artifact; empty when neither is known.

    Known from the moment the artifact was begun.
    """
    return manifest_of(root) or read_json(root / "fingerprint.json") or {}


def read_log(root: Path) -> list[dict[str, Any]]:
    """Return the whole lines of an artifact's metrics.jsonl, in order; none when it is absent."""
    try:
        text = (root / "metrics.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    entries = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # being written, or cut short by a kill
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            entries.append(value)
    return entries


def find_recipe(run: Path, name: str) -> Recipe:
    """Return the recipe of the newest artifact of comparison `name`, else of the whole run.

    Paths below the directory that the recipe calls its run are moved to `run`.
    Raises DataError when there is none.
    """
    for pattern in (f"finetune/{name}/*/*/*/recipe.yaml", "*/*/recipe.yaml"):
        newest = max(run.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:
            return _read_recipe(newest, run)
    raise DataError(f"{run} is not a run: give the directory that a recipe names as `run`")


def teacher_name(root: Path) -> str | None:
    """Return the teacher's model, as the recipe next to an artifact names it."""
    try:
        raw = yaml.safe_load((root / "recipe.yaml").read_text(encoding="utf-8"))
        return str(raw["teacher"]["model"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None


def _read_recipe(path: Path, run: Path) -> Recipe:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Recipe.model_validate(_moved(raw, str(raw["run"]).rstrip("/"), str(run)))
    except (OSError, yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a recipe: {error}") from None


def _moved(value: Any, old: str, new: str) -> Any:
    """Replace directory `old` by `new` in all strings of a recipe."""
    if isinstance(value, str):
        return new + value[len(old) :] if value == old or value.startswith(f"{old}/") else value
    if isinstance(value, dict):
        return {key: _moved(item, old, new) for key, item in value.items()}
    return [_moved(item, old, new) for item in value] if isinstance(value, list) else value
