"""Every kind of source gives the same documents; an error is one line with its place."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.corpus.documents import Document, attribution, iter_documents, iter_split
from pipeline.corpus.splits import split_of
from pipeline.errors import DataError
from pipeline.recipe import Corpus, Split

ROWS = [
    {"title": "Éire", "extract": "An island\nin the north."},
    {"title": "Void", "extract": " \n"},
    {"title": "日本", "extract": "島国である。"},
]
EXPECTED = [Document("Éire", "An island\nin the north."), Document("日本", "島国である。")]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    import zstandard

    # Two frames, as `cat a.zst b.zst` makes.
    return b"".join(zstandard.compress(part) for part in (data[:40], data[40:]))


def parquet(data: bytes) -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([json.loads(line) for line in data.splitlines()]), out
    )
    return out.getvalue()


WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "a.jsonl": bytes,
    "a.jsonl.gz": gzip.compress,
    "a.jsonl.zst": zstd,
    "a.parquet": parquet,
}


def corpus(
    *sources: Path | str, text: str = "extract", key: str | None = "title", **more: object
) -> Corpus:
    return Corpus.model_validate(
        {"sources": [str(source) for source in sources], "text": text, "key": key, **more}
    )


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_of_file_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WRITERS[name](LINES))
    assert list(iter_documents(corpus(tmp_path / name))) == EXPECTED


def test_a_datasets_name_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes(LINES)
    assert list(iter_documents(corpus(f"hub:{tmp_path}/data"))) == EXPECTED
    with pytest.raises(DataError, match="cannot read it after row 0"):
        list(iter_documents(corpus("hub:no/such-name")))


def test_blank_lines_divide_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff\n\nOne\r\nstill one\n \t\n\nTwo".encode())
    assert [d.text for d in iter_documents(corpus(path, key=None))] == ["One\nstill one", "Two"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("gone.jsonl", None, r"gone.jsonl does not exist"),
        ("a.csv", b"x", r"a.csv: cannot tell what it holds.*\.parquet"),
        (
            "a.txt",
            "fine\ncaf\u00e9\n".encode("latin-1"),
            r"a.txt:2: not UTF-8 \(byte 0xe9 at 3 of the line\).*iconv",
        ),
        ("a.jsonl", LINES + b"{'title': 1}\n", r"a.jsonl:4: not valid JSON"),
        ("a.jsonl", LINES + b"[1]\n", r"a.jsonl:4: list instead of an object"),
        (
            "a.jsonl",
            b'{"title": "x", "body": "y"}\n',
            r"a.jsonl:1: no field 'extract'; it has 'title', 'body'.*corpus.text",
        ),
        (
            "a.jsonl",
            b'{"extract": "x"}\n',
            r"a.jsonl:1: no field 'title'; it has 'extract': set corpus.key",
        ),
        (
            "a.jsonl",
            b'{"title": "x", "extract": 5}\n',
            r"a.jsonl:1: field 'extract' is int, not text",
        ),
        (
            "a.jsonl",
            b'{"title": "x", "extract": "\\ud800"}\n',
            r"a.jsonl:1: field 'extract' holds \\ud800",
        ),
        ("a.jsonl.gz", gzip.compress(LINES * 9)[:-9], r"a.jsonl.gz: cannot be read after line \d+"),
        ("a.jsonl.gz", LINES, r"a.jsonl.gz: cannot be read after line 0"),
        ("a.jsonl.zst", LINES, r"a.jsonl.zst: cannot be read after line 0"),
        (
            "a.jsonl.zst",
            zstd(LINES)[:-1],
            r"a.jsonl.zst: cannot be read after line \d+ \(the file is cut off\)",
        ),
        ("a.parquet", LINES, r"a.parquet: cannot be read as parquet"),
    ],
)
def test_a_fault_is_one_line_that_names_its_place(
    tmp_path: Path, name: str, data: bytes | None, said: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said):
        list(iter_documents(corpus(tmp_path / name)))


def test_splits_divide_the_documents_and_never_move(few_documents: Path) -> None:
    settings = {"validation": 0.2, "test": 0.1}
    whole = corpus(few_documents, split=settings)
    parts = {name: list(iter_split(whole, name)) for name in ("train", "validation", "test")}
    assert sorted(itertools.chain(*parts.values())) == sorted(iter_documents(whole))
    assert 0.1 < len(parts["validation"]) / 300 < 0.3
    # A larger test share takes from train alone.
    larger = corpus(few_documents, split={**settings, "test": 0.3})
    assert list(iter_split(larger, "validation")) == parts["validation"]
    assert set(parts["test"]) < set(iter_split(larger, "test"))
    # Pinned: another release must not move a document from one side to the other.
    assert [split_of(key, Split(validation=0.2, test=0.1)) for key in "abc"] == [
        "train",
        "test",
        "validation",
    ]


def test_the_attribution_next_to_a_source_is_found(wiki_jsonl: Path, few_documents: Path) -> None:
    assert ["CC BY-SA 4.0" in note for note in attribution(corpus(wiki_jsonl, few_documents))] == [
        True
    ]
