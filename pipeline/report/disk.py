"""The files of a run, read leniently: what is absent or half-written is None, so that a run in progress can be reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import DataError
from pipeline.recipe import Recipe
from pipeline.status.progress import read_json


def manifest_of(root: Path) -> dict[str, Any] | None:
    """The manifest of a finished artifact."""
    return read_json(root / "manifest.json")


def identity_of(root: Path) -> dict[str, Any]:
    """`fingerprint` and `payload` of an artifact that was begun at least; empty when neither is known."""
    return manifest_of(root) or read_json(root / "fingerprint.json") or {}


def find_recipe(run: Path, name: str) -> Recipe:
    """The recipe of the newest artifact of comparison `name`, or of the run where that was not begun.

    Paths below the directory that the recipe calls its run are moved to `run`. Raises DataError when there is none.
    """
    places = [f"finetune/{name}/*/*/*/recipe.yaml", "*/*/recipe.yaml"]
    for place in places:
        found = sorted(run.glob(place), key=lambda path: path.stat().st_mtime, reverse=True)
        if found:
            return _read(found[0], run)
    raise DataError(f"{run} is not a run: give the directory that a recipe names as `run`")


def teacher_name(root: Path) -> str | None:
    """What the recipe beside an artifact calls its teacher's model."""
    try:
        return str(
            yaml.safe_load((root / "recipe.yaml").read_text(encoding="utf-8"))["teacher"]["model"]
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None


def _read(path: Path, run: Path) -> Recipe:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Recipe.model_validate(_moved(raw, str(raw["run"]).rstrip("/"), str(run)))
    except (OSError, yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a recipe: {error}") from None


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return new + value[len(old) :] if value == old or value.startswith(f"{old}/") else value
    if isinstance(value, dict):
        return {key: _moved(item, old, new) for key, item in value.items()}
    return [_moved(item, old, new) for item in value] if isinstance(value, list) else value
