"""The safetensors files of a model directory, read by their headers alone. No torch."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import CorruptArtifact

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Entry(NamedTuple):
    """One tensor of a weight file. dtype: as safetensors writes it, such as BF16."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a model directory, in order of their names."""
    return sorted(directory.glob("*.safetensors"))


def read_entries(directory: Path) -> dict[str, Entry]:
    """Return every tensor in the weight files of `directory`, by name.

    Raises CorruptArtifact for a file that is not a safetensors file.
    """
    return {name: entry for file in weight_files(directory) for name, entry in _read(file).items()}


def name_in_model(key: str, model: PreTrainedModel, names: Container[str]) -> str | None:
    """Return the name in `model` of the entry `key` of a weight file, one of `names`.

    None if the entry is to be skipped. This follows `from_pretrained`: some files hold the model
    without its head, and some old ones hold more than the model has.
    """
    prefixed = f"{model.base_model_prefix}.{key}"
    if key not in names and prefixed in names:
        return prefixed
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    if key not in names and any(re.search(pattern, key) for pattern in ignored):
        return None
    return key


def _read(file: Path) -> dict[str, Entry]:
    # https://github.com/huggingface/safetensors#format: 8 bytes of length, then that much JSON.
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        return {
            name: Entry(file, entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        raise CorruptArtifact(f"{file} is not a safetensors file: copy or make it again") from None
