"""The JSON schema of a recipe file, with which editors complete and check YAML."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import JsonSchemaValue

from pipeline.recipe.recipe import Recipe


def recipe_schema() -> JsonSchemaValue:
    """Return the JSON schema of a recipe as it is written in a file.

    A file may hold less than a loaded recipe, since the recipe it extends holds the rest. It may
    also name task files.
    """
    schema: JsonSchemaValue = tidy(Recipe.model_json_schema())
    extends = {"type": "string", "description": "The recipe to start from, relative to this one."}
    file = {"type": "string", "description": "The task file to start from (tasks/sst2.yaml)."}
    schema["properties"] = {"extends": extends} | schema["properties"]
    task, finetune = schema["$defs"]["Task"], schema["$defs"]["FineTune"]
    task["properties"] = {"file": file} | task["properties"]
    tasks = finetune["properties"]["tasks"]
    tasks["items"] = {"anyOf": [{"type": "string"}, tasks["items"]]}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "MiniEnD recipe"} | schema


def tidy(schema: Any) -> Any:
    """Drop the lists of required keys and the derived titles; join the lines of paragraphs."""
    if isinstance(schema, list):
        return [tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {key: tidy(value) for key, value in schema.items() if key != "required"}
    if isinstance(tidied.get("title"), str):
        del tidied["title"]
    if isinstance(tidied.get("description"), str):
        tidied["description"] = re.sub(r"(?<!\n)\n(?!\n)", " ", tidied["description"])
    return tidied
