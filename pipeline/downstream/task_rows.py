"""Rows of a task, read from local .jsonl, .csv, .tsv and .parquet files, or by a `datasets` name.

Local text files are read directly: importing `datasets` costs 2–3 s and gives nothing for a file
that fits in memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

#: A row as a dict from column to value.
Row = dict[str, Any]
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def read_rows(source: str, part: str) -> list[Row]:
    """Return every row of `source`.

    source: a local file, or `hub:NAME[@REVISION][:CONFIG[:SPLIT]]`; an empty CONFIG is the default.
    part: `train`, `validation` or `test`; the split of a `hub:` name without one.
    Raises DataError (one line with file and row) when it is missing, malformed or empty.
    """
    if source.startswith("hub:"):
        rows = _hub_rows(source, part)
    else:
        path = Path(source)
        if not path.is_file():
            raise DataError(f"{source} does not exist (for a datasets name write hub:NAME)")
        if path.suffix not in SUFFIXES:
            raise DataError(
                f"{source}: task rows come from {', '.join(SUFFIXES)} files, "
                f"not {path.suffix or 'this'}"
            )
        rows = _parquet_rows(path) if path.suffix == ".parquet" else list(_text_rows(path))
    if not rows:
        raise DataError(f"{source} has no rows")
    return rows


def _text_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            if path.suffix == ".jsonl":
                yield from _json_rows(path, handle)
            else:
                yield from _separated_rows(path, handle)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}): convert it first, e.g. with iconv"
        ) from None


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path} line {number} is not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f'{path} line {number} must be a JSON object such as {{"text": "…"}}')
        yield row


def _separated_rows(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    # GLUE's .tsv files quote nothing: a lone " in a sentence must not swallow the rows after it.
    tabs = path.suffix == ".tsv"
    reader = (
        csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.DictReader(lines, strict=True)
    )
    try:
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or ())
                raise DataError(
                    f"{path} line {reader.line_num} does not have the header's {columns} columns"
                )
            yield row
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not valid: {error}") from None


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from None


def _hub_rows(source: str, part: str) -> list[Row]:
    fields = source.removeprefix("hub:").split(":")
    if not fields[0] or len(fields) > 3:
        raise DataError(f"{source!r}: write hub:NAME[@REVISION][:CONFIG[:SPLIT]]")
    name, config, split = [*fields, "", ""][:3]
    name, _, revision = name.partition("@")
    import datasets

    try:
        rows: Sequence[Row] = datasets.load_dataset(
            name, config or None, split=split or part, revision=revision or None
        )
    except Exception as error:  # any error of the network, the hub or the builder
        raise DataError(
            f"{source}: datasets cannot load it ({type(error).__name__}: {error}): correct the "
            "name, go online without HF_HUB_OFFLINE, or give the task local files"
        ) from None
    return list(rows)
