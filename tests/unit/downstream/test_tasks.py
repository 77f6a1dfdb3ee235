"""Tasks read from files: rendering, labels, and one clear line for every mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.downstream.task_rows import read_rows
from pipeline.downstream.tasks import load_task
from pipeline.errors import DataError
from pipeline.recipe import Task

ROWS = [
    {"text": 'Paris is a city, "the" city', "topic": "Place"},
    {"text": "A poet\nof Rome", "topic": "Person"},
    {"text": "Nobody knows", "topic": "Uncategorized"},
    {"text": "", "topic": "Place"},
    {"text": "Lyon", "topic": "Place"},
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def topic_task(train: str, test: str | None = None, **settings: Any) -> Task:
    values = {
        "source": "topic: {text}",
        "target": "{topic}",
        "kind": "classification",
        "drop_labels": ["Uncategorized"],
    }
    return Task(name="topic", train=train, test=test or train, **(values | settings))


def test_the_same_rows_come_from_every_format(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    with open(tmp_path / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["text", "topic"])
        writer.writeheader()
        writer.writerows(ROWS)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    for suffix in ("jsonl", "csv", "parquet"):
        assert read_rows(str(tmp_path / f"rows.{suffix}"), "train") == ROWS, suffix
    # GLUE's .tsv: no quoting.
    (tmp_path / "rows.tsv").write_text('sentence\tlabel\nthe "best\t1\nfine\t0\n')
    assert read_rows(str(tmp_path / "rows.tsv"), "train")[0] == {
        "sentence": 'the "best',
        "label": "1",
    }


def test_a_datasets_directory_is_read_with_its_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    write_jsonl(tmp_path / "mine" / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "mine" / "test.jsonl", ROWS[:2])
    assert read_rows("hub:mine", "test") == ROWS[:2]
    assert read_rows("hub:mine::train", "test") == ROWS


def test_rendering_labels_and_counts(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    data = load_task(topic_task(rows, validation=rows), 10)
    assert data.labels == ["Person", "Place"]
    assert data.train.sources == [
        'topic: Paris is a city, "the" city',
        "topic: A poet\nof Rome",
        "topic: Lyon",
    ]
    assert data.train.rows == [0, 1, 4]
    assert (data.train.empty, data.train.dropped) == (1, 1)
    assert load_task(topic_task(rows, test_rows=2), 10).test.rows == [0, 1]


def test_validation_rows_are_held_out_where_the_task_names_none(tmp_path: Path) -> None:
    rows = [{"text": f"text {i % 60}", "topic": "a" if i % 2 else "b"} for i in range(100)]
    data = load_task(topic_task(write_jsonl(tmp_path / "rows.jsonl", rows)), 8)
    held = set(data.validation.sources)
    assert len(data.validation) == 8
    assert not held & set(data.train.sources), (
        "a row that occurs twice must not stand on both sides"
    )
    again = load_task(topic_task(write_jsonl(tmp_path / "other.jsonl", rows[::-1])), 8)
    assert set(again.validation.sources) == held, "which rows depends on their text alone"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "{topics}"}, r"column 'topics', but row 1 of .*rows.jsonl has text, topic"),
        (
            {"labels": ["Place", "Event"]},
            r"row 2 of .*rows.jsonl has label 'Person', which is none of Place, Event",
        ),
        ({"labels": ["Place"]}, r"two or more different labels"),
        ({"source": "{text"}, r"cannot be filled in"),
        (
            {"drop_labels": ["Place", "Person", "Uncategorized"]},
            r"no row left \(0 empty, 5 dropped\)",
        ),
    ],
)
def test_a_wrong_task_is_one_line(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(topic_task(write_jsonl(tmp_path / "rows.jsonl", ROWS), **settings), 10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a.jsonl line 2 is not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n["x"]\n', r"a.jsonl line 2 must be a JSON object"),
        ("a.jsonl", b"", r"a.jsonl has no rows"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', r"a.jsonl is not UTF-8"),
        ("a.csv", b"text,topic\nx\n", r"a.csv line 2 does not have the header's 2 columns"),
        ("a.parquet", b"not parquet", r"a.parquet is not a readable parquet file"),
        ("a.xlsx", b"", r"not .xlsx"),
        ("b.jsonl", None, r"a.jsonl does not exist"),
    ],
)
def test_a_wrong_file_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is None:
        path = tmp_path / "a.jsonl"
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(str(path), "train")
