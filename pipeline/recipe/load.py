"""Load a recipe: its `extends` chain, overrides, and one line about the first fault."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.section import Section, section_in


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its `extends` chain and overrides.

    Raises ConfigError with one line about the first fault.
    """
    raw = _read(Path(path), ())
    for override in overrides:
        _apply_override(raw, override)
    _read_task_files(raw)
    run = raw.get("run")
    if isinstance(run, str):
        raw = _substitute(raw, run.rstrip("/"))
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"recipe {path}: {_explain(error)}") from None


def _read(path: Path, seen: tuple[Path, ...], what: str = "recipe") -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{what} {path}: `extends` goes round in a circle")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        example = "recipes/demo.yaml" if what == "recipe" else "tasks/sst2.yaml"
        raise ConfigError(f"{what} {path} does not exist: give a file such as {example}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} {path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        key = "run" if what == "recipe" else "name"
        raise ConfigError(f"{what} {path} must be a mapping with at least `{key}:`")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    return _merge(_read(path.parent / str(base), (*seen, path.resolve()), what), raw)


def _read_task_files(raw: dict[str, Any]) -> None:
    """Put the content of each task file in the place of its name.

    For example `tasks: [tasks/sst2.yaml, {file: tasks/rte.yaml, test: …}]`.
    """
    section = raw.get("finetune")
    tasks = section.get("tasks") if isinstance(section, dict) else None
    if not isinstance(tasks, list):
        return
    for index, task in enumerate(tasks):
        named = {"file": task} if isinstance(task, str) else task
        if not isinstance(named, dict) or "file" not in named:
            continue
        change = {key: value for key, value in named.items() if key != "file"}
        # Not merged deeply: other labels replace those of the file.
        tasks[index] = _read(Path(str(named["file"])), (), "task") | change


def _merge(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def _apply_override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"override {override!r}: write section.key=value, e.g. distill.max_steps=100"
        )
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None
    target = raw
    for key in keys[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {key} is not a section")
        target = inner
    target[keys[-1]] = value


def _substitute(value: Any, run: str) -> Any:
    if isinstance(value, str):
        return value.replace("{run}", run)
    if isinstance(value, dict):
        return {key: _substitute(item, run) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, run) for item in value]
    return value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    parts, known = _walk(first["loc"])
    where = ".".join(parts)
    if first["type"] != "extra_forbidden":
        message = str(first["msg"]).removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    near = difflib.get_close_matches(parts[-1], known, n=1, cutoff=0.5)
    hint = (
        f"did you mean {'.'.join([*parts[:-1], near[0]])}?"
        if near
        else f"known keys: {', '.join(known)}"
    )
    return f"unknown key {where}; {hint}"


#: Names of kinds of value, which pydantic adds to the location of an error in a union.
_KINDS = {"list", "name", "number", "schedule", "section"}


def _walk(location: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """Return the location of an error as the recipe writes it, and the keys of its section."""
    section: type[Section] | None = Recipe
    parts: list[str] = []
    known: list[str] = []
    for part in location:
        fields = {} if section is None else section.model_fields
        if part in _KINDS and part not in fields:
            continue
        parts.append(str(part))
        if section is not None and isinstance(part, str):
            known = list(fields)
            if part in fields:
                section = section_in(fields[part].annotation)
    return parts, known
