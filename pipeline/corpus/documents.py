"""Documents of a corpus, one at a time, in bounded memory.

A row of a source (`sources.py`) becomes a document. Documents of white space alone are skipped.
Anything else wrong with the input is a DataError of one line that names the file and the line or
row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.corpus.sources import iter_rows
from pipeline.corpus.splits import SplitName, split_of
from pipeline.errors import DataError
from pipeline.recipe import Corpus


class Document(NamedTuple):
    #: Decides the split: the recipe's `corpus.key` field, or the text.
    key: str
    text: str


def iter_documents(corpus: Corpus) -> Iterator[Document]:
    """Stream every document of every source, in the order they are written."""
    for source in corpus.sources:
        for where, row in iter_rows(source):
            document = _document(row, corpus, where)
            if document.text and not document.text.isspace():
                yield document


def iter_split(corpus: Corpus, name: SplitName) -> Iterator[Document]:
    """Stream the documents of one split."""
    return (
        document
        for document in iter_documents(corpus)
        if split_of(document.key, corpus.split) == name
    )


def attribution(corpus: Corpus) -> list[str]:
    """Return what must be said about the text's origin.

    It is the content of SOURCE.attribution.txt next to each source that has one.
    """
    notes = [
        Path(source + ".attribution.txt")
        for source in corpus.sources
        if not source.startswith("hub:")
    ]
    return [note.read_text(encoding="utf-8").strip() for note in notes if note.is_file()]


def _document(row: object, corpus: Corpus, where: str) -> Document:
    if isinstance(row, str):
        return Document(row, row)
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: {type(row).__name__} instead of an object with a {corpus.text!r} field"
        )
    text = _field(row, corpus.text, "corpus.text", where)
    if not isinstance(text, str):
        raise DataError(
            f"{where}: field {corpus.text!r} is {type(text).__name__}, not text: "
            "correct or remove it, or name another field in corpus.text"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        bad = f"\\u{ord(text[error.start]):04x}"
        raise DataError(
            f"{where}: field {corpus.text!r} holds {bad}, half a character: correct or remove it"
        ) from None
    key = text if corpus.key is None else str(_field(row, corpus.key, "corpus.key", where))
    return Document(key, text)


def _field(row: dict[str, Any], name: str, setting: str, where: str) -> object:
    if name not in row:
        fields = ", ".join(map(repr, row)) or "none"
        raise DataError(f"{where}: no field {name!r}; it has {fields}: set {setting}")
    value: object = row[name]
    return value
