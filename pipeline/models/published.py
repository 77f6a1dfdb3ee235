"""The configuration of a model without its weights: from its directory, the hub's cache, the hub, or what was published of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Described:
    """What is known of a model before its weights are."""

    #: Its Transformers configuration.
    config: Any
    #: Whether its LM head is its own; None where only the family's rule says.
    separate_head: bool | None
    #: Where this was read, for people.
    source: str


def describe(model: str) -> Described:
    """Find the configuration of `model`, a directory or hub name as in `teacher.model`; no weights are read.

    A published name (`published.yaml`), or a directory so named that is not there yet, needs no network. Raises ConfigError when
    nothing is known of the model.
    """
    from transformers import AutoConfig

    directory = Path(model)
    if (directory / "config.json").is_file():
        return Described(
            AutoConfig.from_pretrained(directory), _separate_head(directory), f"{model}/config.json"
        )
    cached = _from_hub(model, local=True)
    if cached is not None:
        return Described(
            AutoConfig.from_pretrained(cached), _separate_head(cached), f"hub cache of {model}"
        )
    name = directory.name
    if name in published():
        model_type, settings, separate = published()[name]
        config = AutoConfig.for_model(model_type, **settings)
        return Described(
            config, separate, f"the published shape of {name}, as the model itself is not here"
        )
    fetched = _from_hub(model, local=False)
    if fetched is not None:
        return Described(AutoConfig.from_pretrained(fetched), None, f"hub {model}")
    raise ConfigError(
        f"model {model}: no such directory, the hub does not give its config.json, and it is none of the published shapes that are "
        "known offline (pipeline/models/published.yaml): put its config.json there"
    )


@cache
def published() -> dict[str, tuple[str, dict[str, Any], bool]]:
    """By name: model_type, settings of the configuration, whether the LM head is the model's own."""
    families = yaml.safe_load(
        Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    )
    found: dict[str, tuple[str, dict[str, Any], bool]] = {}
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
            found[name] = (model_type, shared | size, separate)
    return found


def _separate_head(directory: Path) -> bool | None:
    from safetensors import safe_open
    from transformers import AutoConfig

    from pipeline.families import family_of
    from pipeline.models.weights import weight_files

    names: set[str] = set()
    for file in weight_files(directory):
        with safe_open(file, framework="pt") as handle:
            names.update(handle.keys())
    return (
        family_of(AutoConfig.from_pretrained(directory)).head_is_separate(names) if names else None
    )


def _from_hub(model: str, *, local: bool) -> Path | None:
    if model.startswith((".", "/")) or model.count("/") > 1:
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, "config.json", local_files_only=local)).parent
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None
