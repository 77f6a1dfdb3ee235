"""Small files in the exact published schema of GLUE and of three summarisation sets, made of real
text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

#: Task → columns with their Arrow types, as the parquet files of nyu-mll/glue, abisee/cnn_dailymail
#: and EdinburghNLP/xsum have them.
_TEXT, _LABEL, _INDEX = pyarrow.string(), pyarrow.int64(), pyarrow.int32()
SCHEMAS: dict[str, dict[str, Any]] = {
    "cola": {"sentence": _TEXT, "label": _LABEL, "idx": _INDEX},
    "sst2": {"sentence": _TEXT, "label": _LABEL, "idx": _INDEX},
    "mrpc": {"sentence1": _TEXT, "sentence2": _TEXT, "label": _LABEL, "idx": _INDEX},
    "stsb": {"sentence1": _TEXT, "sentence2": _TEXT, "label": pyarrow.float32(), "idx": _INDEX},
    "qqp": {"question1": _TEXT, "question2": _TEXT, "label": _LABEL, "idx": _INDEX},
    "mnli": {"premise": _TEXT, "hypothesis": _TEXT, "label": _LABEL, "idx": _INDEX},
    "qnli": {"question": _TEXT, "sentence": _TEXT, "label": _LABEL, "idx": _INDEX},
    "rte": {"sentence1": _TEXT, "sentence2": _TEXT, "label": _LABEL, "idx": _INDEX},
    "cnn_dailymail": {"article": _TEXT, "highlights": _TEXT, "id": _TEXT},
    "xsum": {"document": _TEXT, "summary": _TEXT, "id": _TEXT},
    "samsum": {"id": _TEXT, "dialogue": _TEXT, "summary": _TEXT},
}
SUMMARIES = ("cnn_dailymail", "xsum", "samsum")


def write_published(task: str, path: Path, documents: list[dict[str, str]]) -> str:
    """Write a row for each document (title, extract, description) and return the path. samsum is
    .csv, all others .parquet."""
    rows = list(_rows(task, documents))
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(SCHEMAS[task]))
            writer.writeheader()
            writer.writerows(rows)
        return str(path)
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(list(SCHEMAS[task].items())))
    pyarrow.parquet.write_table(table, path)
    return str(path)


def _rows(task: str, documents: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    for index, document in enumerate(documents):
        first, second = document["extract"], document["description"] or document["title"]
        if task in SUMMARIES:
            # CNN/DailyMail's highlights are lines.
            target = f"{document['title']} .\n{second} ." if task == "cnn_dailymail" else second
            texts = [
                target if name in ("highlights", "summary") else first for name in SCHEMAS[task]
            ]
            row = dict(zip(SCHEMAS[task], texts, strict=True))
            yield row | {"id": str(index)}
            continue
        kinds = 3 if task == "mnli" else 2
        label = len(first) % 51 / 10 if task == "stsb" else len(first) % kinds
        columns = [name for name, kind in SCHEMAS[task].items() if kind == _TEXT]
        yield dict(zip(columns, (first, second), strict=False)) | {"label": label, "idx": index}
