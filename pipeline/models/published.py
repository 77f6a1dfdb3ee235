"""The architecture of a model by its name, before its weights are there.

It comes from a directory, the hub's cache, the list of published models, or the hub.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.errors import ConfigError
from pipeline.models.architecture import Architecture
from pipeline.models.directory import ModelDirectory


class KnownModel(NamedTuple):
    """A model known before its weights are there."""

    architecture: Architecture
    #: Where the configuration was found, for people.
    source: str


class PublishedModel(NamedTuple):
    """One entry of published.yaml. settings: those of its configuration."""

    model_type: str
    settings: dict[str, Any]
    separate_head: bool


def describe(model: str) -> KnownModel:
    """Find the architecture of `model`, a directory or hub name as in `teacher.model`.

    No weights are read. No network is needed for a published name (`published.yaml`), nor for a
    directory of that name that is not there yet. Raises ConfigError when nothing is known of it.
    """
    from transformers import AutoConfig

    directory = Path(model)
    if (directory / "config.json").is_file():
        return KnownModel(_architecture(directory), f"{model}/config.json")
    cached = _from_hub(model, local=True)
    if cached is not None:
        return KnownModel(_architecture(cached), f"hub cache of {model}")
    name = directory.name
    if name in published():
        entry = published()[name]
        config = AutoConfig.for_model(entry.model_type, **entry.settings)
        return KnownModel(
            Architecture(config, entry.separate_head),
            f"the published shape of {name}, as the model itself is not here",
        )
    fetched = _from_hub(model, local=False)
    if fetched is not None:
        return KnownModel(Architecture.of(AutoConfig.from_pretrained(fetched)), f"hub {model}")
    raise ConfigError(
        f"model {model}: no such directory, the hub does not give its config.json, and it is none "
        "of the published shapes that are known offline (pipeline/models/published.yaml): "
        "put its config.json there"
    )


@cache
def published() -> dict[str, PublishedModel]:
    """Return the published models by name."""
    families = yaml.safe_load(
        Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    )
    models: dict[str, PublishedModel] = {}
    for family in families.values():
        base = families[family["same_as"]] if "same_as" in family else {}
        old, new = family.get("rename", ("", ""))
        shared = base.get("shared", {}) | family.get("shared", {})
        for name, size in (family.get("sizes") or base["sizes"]).items():
            name = name.replace(old, new) if old else name
            if name in family.get("without", ()):
                continue
            model_type = family.get("model_type") or base["model_type"]
            separate = family.get("separate_head", base.get("separate_head"))
            models[name] = PublishedModel(model_type, shared | size, separate)
    return models


def _architecture(path: Path) -> Architecture:
    """Return the architecture of a directory, which may have no weights yet."""
    from transformers import AutoConfig

    directory = ModelDirectory(str(path), path)
    if directory.weights:
        return directory.architecture
    return Architecture.of(AutoConfig.from_pretrained(path))


def _from_hub(model: str, *, local: bool) -> Path | None:
    if model.startswith((".", "/")) or model.count("/") > 1:
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "config.json", local_files_only=local)).parent
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None
