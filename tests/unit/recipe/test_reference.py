"""docs/recipe.md and recipe.schema.json are what `make reference` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.recipe import reference
from pipeline.recipe.schema import recipe_schema

SCHEMA = recipe_schema()
FILES = [*sorted(Path("recipes").glob("*.yaml")), *sorted(Path("tasks").glob("*.yaml"))]


def test_the_files_are_up_to_date(tmp_path: Path) -> None:
    page, schema = tmp_path / "recipe.md", tmp_path / "recipe.schema.json"
    reference.main([str(page), str(schema)])
    stale = "run `make reference` and commit what it writes"
    assert page.read_text() == Path("docs/recipe.md").read_text(), stale
    assert schema.read_text() == Path("recipe.schema.json").read_text(), stale


def test_the_command_says_how_it_is_used() -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m pipeline\.recipe\.reference"):
        reference.main([])


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_schema_knows_every_key_of_every_file(path: Path) -> None:
    shape = SCHEMA if path.parent.name == "recipes" else SCHEMA["$defs"]["Task"]
    assert unknown_keys(yaml.safe_load(path.read_text()), [shape]) == []


def test_the_schema_refuses_a_misspelt_key() -> None:
    assert unknown_keys({"distill": {"max_step": 1}}, [SCHEMA]) == ["distill.max_step"]


def unknown_keys(value: Any, shapes: list[dict[str, Any]], place: str = "") -> list[str]:
    """Return the keys in `value` that none of the JSON schemas `shapes` allows there."""
    if isinstance(value, list):
        items = [shape["items"] for shape in expanded(shapes) if "items" in shape]
        return [key for item in value for key in unknown_keys(item, items, place)]
    if not isinstance(value, dict):
        return []
    unknown = []
    for key, item in value.items():
        here = f"{place}.{key}".removeprefix(".")
        inner = [
            shape["properties"][key]
            for shape in expanded(shapes)
            if key in shape.get("properties", {})
        ]
        inner += [
            shape["additionalProperties"]
            for shape in expanded(shapes)
            if isinstance(shape.get("additionalProperties"), dict)
        ]
        unknown += unknown_keys(item, inner, here) if inner else [here]
    return unknown


def expanded(shapes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the schemas with references followed and unions opened."""
    plain = []
    for shape in shapes:
        inner = [*shape.get("anyOf", []), *shape.get("oneOf", [])]
        if "$ref" in shape:
            inner.append(SCHEMA["$defs"][shape["$ref"].rpartition("/")[2]])
        plain += [shape, *expanded(inner)] if inner else [shape]
    return plain
