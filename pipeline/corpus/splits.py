"""Rows divided into train, validation and test by one of their fields."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.artifacts import atomic
from pipeline.corpus.readers import SplitName, split_of
from pipeline.recipe import Split

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


def write_splits(rows: Path, directory: Path, key: str, split: Split) -> dict[SplitName, Path]:
    """Write `directory`/train.jsonl, validation.jsonl and test.jsonl, those that are there excepted.

    rows: a .jsonl file; key: the field that decides, as `corpus.key` does for the corpus: rows with the same one stay together.
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
