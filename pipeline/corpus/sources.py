"""Rows of text files and `datasets` names, one at a time, in bounded memory.

| source | rows |
|---|---|
| `.txt` | runs of lines between blank lines |
| `.jsonl`, `.jsonl.gz`, `.jsonl.zst` | one JSON object a line; the text is in `corpus.text` |
| `.parquet` | one a row, same field |
| `hub:NAME[:CONFIG[:SPLIT]]` | one a row of a `datasets` data set, streamed; SPLIT: else `train` |

Everything is UTF-8. Each row comes with its place, `FILE:LINE` or `FILE row N`, for messages.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

from pipeline.errors import DataError

KINDS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_PARQUET_ROWS = 1024
_ZSTD_BYTES = 1 << 17

#: A row's place and its value, as it was parsed.
Row = tuple[str, object]


def iter_rows(source: str) -> Iterator[Row]:
    """Stream the rows of one source; raises DataError, with the place, if one cannot be read."""
    return _hub_rows(source) if source.startswith("hub:") else _file_rows(Path(source))


def _file_rows(path: Path) -> Iterator[Row]:
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


def _paragraphs(path: Path) -> Iterator[Row]:
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


def _json_lines(path: Path) -> Iterator[Row]:
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
                # Editors on Windows write a byte order mark, which is no text.
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start} "
            "of the line): convert it, e.g. iconv -f LATIN1 -t UTF-8"
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
    """Yield the lines of a file of one or more frames; raises OSError if it is damaged or cut off.

    zstandard's own stream_reader reads a file that was cut off as if it ended there.
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


def _parquet_rows(path: Path) -> Iterator[Row]:
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


def _hub_rows(source: str) -> Iterator[Row]:
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
    except Exception as error:  # each backend of datasets raises its own errors
        reason = str(error).split("\n", 1)[0]
        raise DataError(
            f"{source}: `datasets` cannot read it after row {number} "
            f"({type(error).__name__}: {reason}): correct the name in corpus.sources, "
            "or go online without HF_HUB_OFFLINE"
        ) from None
