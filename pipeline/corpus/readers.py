"""Documents out of text files and `datasets` names, one at a time, in bounded memory.

| source | documents |
|---|---|
| `.txt` | runs of lines between blank lines |
| `.jsonl`, `.jsonl.gz`, `.jsonl.zst` | one JSON object a line; the text is the recipe's `corpus.text` field |
| `.parquet` | one a row, same field |
| `hub:NAME[:CONFIG[:SPLIT]]` | one a row of a `datasets` data set, streamed; the split is `train` unless named |

Everything is UTF-8. Documents of white space alone are skipped. Whatever else is wrong with the input is a DataError of one
line that names the file and the line or row.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from pipeline.errors import DataError
from pipeline.recipe import Corpus, Split

SplitName = Literal["train", "validation", "test"]
KINDS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_PARQUET_ROWS = 1024
_ZSTD_BYTES = 1 << 17


class Document(NamedTuple):
    #: What the split is decided by: the recipe's `corpus.key` field, or the text.
    key: str
    text: str


def split_of(key: str, split: Split) -> SplitName:
    """Return the split of a document; it depends on the key and the shares alone, so documents never move.

    The first 8 bytes of the key's sha256 are read as a number in [0, 1): validation takes the low end, test what follows,
    so that raising `test` never moves a document out of validation.
    """
    point = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64
    if point < split.validation:
        return "validation"
    return "test" if point < split.validation + split.test else "train"


def iter_documents(corpus: Corpus) -> Iterator[Document]:
    """Stream every document of every source, in the order they are written."""
    for source in corpus.sources:
        rows = _hub_rows(source) if source.startswith("hub:") else _file_rows(Path(source))
        for where, row in rows:
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
    """What must be said about the text's origin: the content of SOURCE.attribution.txt beside each source that has one."""
    notes = [
        Path(source + ".attribution.txt")
        for source in corpus.sources
        if not source.startswith("hub:")
    ]
    return [note.read_text(encoding="utf-8").strip() for note in notes if note.is_file()]


def _document(row: Any, corpus: Corpus, where: str) -> Document:
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


def _field(row: dict[str, Any], name: str, setting: str, where: str) -> Any:
    if name not in row:
        raise DataError(
            f"{where}: no field {name!r}; it has {', '.join(map(repr, row)) or 'none'}: set {setting}"
        )
    return row[name]


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    kind = next((kind for kind in KINDS if path.name.lower().endswith(kind)), None)
    if kind is None:
        raise DataError(
            f"{path}: cannot tell what it holds; its name must end with {', '.join(KINDS)}"
        )
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: correct corpus.sources (for a datasets name write hub:NAME)"
        )
    if kind == ".parquet":
        return _parquet_rows(path)
    return _paragraphs(path) if kind == ".txt" else _json_lines(path)


def _paragraphs(path: Path) -> Iterator[tuple[str, str]]:
    block: list[str] = []
    start = 1
    for number, line in _lines(path):
        if line.strip():
            if not block:
                start = number
            block.append(line.rstrip("\r\n"))
        elif block:
            yield f"{path}:{start}", "\n".join(block)
            block = []
    if block:
        yield f"{path}:{start}", "\n".join(block)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path}:{number}: not valid JSON ({error}): each line must be one JSON object"
            ) from None
        yield f"{path}:{number}", row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with contextlib.closing(_open(path)) as lines:
            for number, line in enumerate(lines, start=1):
                # A byte order mark, as editors on Windows write it, is no text.
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start} of the line): "
            "convert it, e.g. iconv -f LATIN1 -t UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        raise DataError(
            f"{path}: cannot be read after line {number} ({error}): fetch it again"
        ) from None


def _open(path: Path) -> IO[bytes] | gzip.GzipFile | Generator[bytes, None, None]:
    if path.name.lower().endswith(".zst"):
        return _zstd_lines(path)
    return gzip.GzipFile(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def _zstd_lines(path: Path) -> Generator[bytes, None, None]:
    """Yield the lines of a file of one or more frames; raises OSError where it is damaged or cut off.

    zstandard's own stream_reader takes a file that was cut off for one that ends there.
    """
    import zstandard

    rest = b""
    frame = None
    with open(path, "rb") as handle:
        while chunk := handle.read(_ZSTD_BYTES):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    lines = (rest + frame.decompress(chunk)).split(b"\n")
                except zstandard.ZstdError as error:
                    raise OSError(str(error)) from None
                rest = lines.pop()
                yield from lines
                chunk = frame.unused_data
                frame = None if frame.eof else frame
    if frame is not None:
        raise OSError("the file is cut off")
    if rest:
        yield rest


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as parquet after row {number} ({error}): fetch it again"
        ) from None
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: a row after {number} is not UTF-8: write the file again with text columns"
        ) from None


def _hub_rows(source: str) -> Iterator[tuple[str, Any]]:
    import datasets

    name, config, split, *rest = [*source.removeprefix("hub:").split(":"), "", "", ""][:4]
    if not name or any(rest):
        raise DataError(
            f"{source}: write hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG:SPLIT in corpus.sources"
        )
    number = 0
    try:
        for row in datasets.load_dataset(
            name, config or None, split=split or "train", streaming=True
        ):
            number += 1
            yield f"{source} row {number}", dict(row)
    except DataError:
        raise
    except Exception as error:  # datasets raises whatever its many backends raise
        reason = str(error).split("\n", 1)[0]
        raise DataError(
            f"{source}: `datasets` cannot read it after row {number} ({type(error).__name__}: {reason}): correct the name in "
            "corpus.sources, or go online without HF_HUB_OFFLINE"
        ) from None
