"""Write the reference of the recipe: docs/recipe.md for readers, recipe.schema.json for editors.

Run `python -m pipeline.recipe.reference docs/recipe.md recipe.schema.json`, or `make reference`.
Both files are made of the types, defaults, docstrings and marks of the sections.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic.json_schema import JsonSchemaValue

from pipeline.recipe.recipe import Recipe
from pipeline.recipe.schema import recipe_schema, tidy
from pipeline.recipe.section import (
    ByContent,
    Naming,
    PerUnit,
    Section,
    Watching,
    mark_of,
    section_in,
)

_COMMAND = "python -m pipeline.recipe.reference docs/recipe.md recipe.schema.json"
_HEAD = f"""\
# The recipe

This page is generated from `pipeline/recipe/`: `make reference` runs `{_COMMAND}`.
Change the docstring below a setting, not this page.

A recipe is one YAML file with everything that a run is made from.
An unknown key is an error that names the nearest known one.
`extends: other.yaml` starts from another recipe and merges the sections of both.
`section.key=value` on the command line overrides both.
`{{run}}` in a path stands for the recipe's `run` directory.
Paths are relative to the directory in which a stage is started.
A key whose default is *absent* may be left out or `null`.
`recipes/base.yaml` begins with the line that lets an editor complete keys and show these texts.

The column *decides* says whether a setting decides the content of an artifact.
Such a setting is part of the artifact's fingerprint ([artifacts.md](artifacts.md)).

- **yes**: the setting decides content in the stages that read it.
"""
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TYPES = {"string": "text", "boolean": "`true` or `false`"}

#: Every section that the page describes, with its heading.
Titles = Mapping[type[Section], str]
#: The JSON schema of each key of a section.
Properties = Mapping[str, JsonSchemaValue]


def main(arguments: list[str]) -> None:
    """Write the page and the schema to the two paths given."""
    if len(arguments) != 2:
        raise SystemExit(f"usage: {_COMMAND}")
    page, schema = map(Path, arguments)
    page.write_text(reference_page(), encoding="utf-8")
    schema.write_text(schema_text(), encoding="utf-8")


def schema_text() -> str:
    """Return the content of recipe.schema.json."""
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def reference_page() -> str:
    """Return the content of docs/recipe.md."""
    places = section_places(Recipe)
    titles: dict[type[Section], str] = {}
    for section, found in places.items():
        base = _shared_base(section)
        if base is not None and base not in titles:
            heirs = [f"`{places[heir][0]}`" for heir in places if issubclass(heir, base)]
            titles[base] = "Shared by " + " and ".join(heirs)
        titles[section] = f"`{found[0]}`" if found[0] else "Top level"
    legend = "".join(
        f"- **{mark.word}**: the setting {mark.meaning}.\n"
        for mark in (Watching, Naming, ByContent, PerUnit)
    )
    schema = recipe_schema()
    parts = [
        _part(section, _properties(section, schema), places.get(section, [""]), titles)
        for section in titles
    ]
    page = "\n".join([_HEAD + legend, *parts])
    return re.sub(r"\bdocs/([\w/-]+\.md)\b(?=\))", r"[\1](\1)", page)


def section_places(section: type[Section], place: str = "") -> dict[type[Section], list[str]]:
    """Return the places of each section in a recipe: `section` first, then what it holds."""
    places = {section: [place]}
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is None:
            continue
        here = f"{place}.{name}{_suffix(field.annotation)}".removeprefix(".")
        for deeper, found in section_places(inner, here).items():
            places.setdefault(deeper, []).extend(found)
    return places


def _suffix(annotation: Any) -> str:
    """Return `[]` where the section in a type is an item of a list, `.NAME` in a mapping."""
    if section_in(annotation) is None:
        return ""
    own = {list: "[]", dict: ".NAME"}.get(get_origin(annotation), "")
    return own + "".join(_suffix(argument) for argument in get_args(annotation))


def _shared_base(section: type[Section]) -> type[Section] | None:
    base = section.__base__
    return base if base is not None and issubclass(base, Section) and base is not Section else None


def _part(section: type[Section], properties: Properties, places: list[str], titles: Titles) -> str:
    """Return the heading, the text and the table of one section."""
    level = "###" if "." in places[0] else "##"
    text = inspect.cleandoc(section.__doc__ or "")
    lines = [f"{level} {titles[section]}", "", *_sentences(text)]
    base = _shared_base(section)
    if base is not None:
        shared = titles[base].replace("Shared", "shared")
        lines.append(f"It also has the keys {_link(shared, base, titles)}.")
    if places[1:]:
        lines.append("The same keys stand at " + " and ".join(f"`{it}`" for it in places[1:]) + ".")
    lines += ["", "| key | value | default | decides | meaning |", "|---|---|---|---|---|"]
    inherited = set(base.model_fields if base else ()) - set(inspect.get_annotations(section))
    lines += [
        _row(section, key, shape, titles)
        for key, shape in properties.items()
        if key not in inherited
    ]
    return "\n".join(lines) + "\n"


def _properties(section: type[Section], schema: JsonSchemaValue) -> Properties:
    """Return the JSON schema of each key of a section, as a recipe file may write it."""
    written = schema if section is Recipe else schema["$defs"].get(section.__name__)
    return (written or tidy(section.model_json_schema()))["properties"]


def _row(section: type[Section], key: str, shape: JsonSchemaValue, titles: Titles) -> str:
    field = section.model_fields.get(key)
    mark = None if field is None else mark_of(field)
    decides = "" if field is None else "yes" if mark is None else mark.word
    default = "**required**" if field is not None and field.is_required() else _default(shape)
    cells = [f"`{key}`", _value(shape, titles), default, decides, shape["description"]]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(shape: JsonSchemaValue) -> str:
    value = shape.get("default")
    if value is None:
        return "*absent*"
    if "$ref" in shape:
        return ""  # each key of a section has its own default
    lines = yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()
    return f"`{lines[0]}`"


def _value(shape: JsonSchemaValue, titles: Titles) -> str:
    """Return the type and the range of a JSON schema, in words."""
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        section = next(section for section in titles if section.__name__ == name)
        return _link("section", section, titles)
    for union in ("anyOf", "oneOf"):
        if union in shape:
            options = (item for item in shape[union] if item.get("type") != "null")
            return " or ".join(_value(item, titles) for item in options)
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{item}`" for item in shape.get("enum") or [shape["const"]])
    if "prefixItems" in shape:
        return "[" + ", ".join(_value(item, titles) for item in shape["prefixItems"]) + "]"
    if shape["type"] == "array":
        items = _value(shape["items"], titles)
        return f"list of {items}" + (", not empty" if "minItems" in shape else "")
    if shape["type"] == "object":
        return f"mapping from text to {_value(shape['additionalProperties'], titles)}"
    bounds = [f"{sign} {shape[key]:g}" for key, sign in _BOUNDS.items() if key in shape]
    kind = str(_TYPES.get(shape["type"], shape["type"]))
    return " ".join([kind, " and ".join(bounds)]).strip()


def _link(text: str, section: type[Section], titles: Titles) -> str:
    anchor = re.sub(r"[^\w\- ]", "", titles[section].lower()).replace(" ", "-")
    return f"[{text}](#{anchor})"


def _sentences(text: str) -> list[str]:
    """Return the paragraphs of a docstring with one sentence a line."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return [line for paragraph in paragraphs for line in re.split(r"(?<=\.) (?=[A-Z`])", paragraph)]


if __name__ == "__main__":
    main(sys.argv[1:])
