"""Documents and rows divided into train, validation and test by the hash of a key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pipeline.artifacts import atomic
from pipeline.recipe import Split

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


def split_of(key: str, split: Split) -> SplitName:
    """Return the split of a document with this key.

    It depends on the key and the shares alone, so documents never move. The first 8 bytes of the
    key's sha256 are read as a number in [0, 1). Validation takes the low end and test what follows,
    so raising `test` never moves a document out of validation.
    """
    point = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
    if point < split.validation:
        return "validation"
    return "test" if point < split.validation + split.test else "train"


def write_splits(rows: Path, directory: Path, key: str, split: Split) -> dict[SplitName, Path]:
    """Write `directory`/train.jsonl, validation.jsonl and test.jsonl unless all three exist.

    rows: a .jsonl file.
    key: the field that decides, as `corpus.key` does for the corpus: rows with the same value stay
        together.
    """
    paths = {name: directory / f"{name}.jsonl" for name in SPLITS}
    if not all(path.is_file() for path in paths.values()):
        lines: dict[SplitName, list[str]] = {name: [] for name in SPLITS}
        with open(rows, encoding="utf-8") as handle:
            for line in handle:
                lines[split_of(json.loads(line)[key], split)].append(line)
        for name, path in paths.items():
            atomic.write_text(path, "".join(lines[name]))
    return paths
