"""Rows of a shard from its memory-mapped file, copied once from the page cache to their place."""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts import checksum
from pipeline.artifacts.manifest import ShardRecord

#: The column that holds the rows' checksums, int64 (rows, columns in the order of their names).
#: Sidecars do not list it.
CHECKSUMS = "checksums"

#: Rows of `_LARGE_ROW` bytes or more are checked one by one, after the copy, while they are still
#: in the processor's cache. Smaller rows are checked a block of `_BLOCK` bytes at a time: one call
#: checks many rows.
_LARGE_ROW, _BLOCK = 16384, 1 << 18
DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
}


class MappedShard:
    """One shard, of which only the header is read when it is opened.

    Every row is checked by its checksum when this process first reads it or a row of its block.
    Every method raises ValueError, saying what is wrong, if the file does not fit `record` or a row
    is not what was written.
    """

    def __init__(self, path: Path, record: ShardRecord) -> None:
        with open(path, "rb") as handle:
            self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._columns = self._read_header()
        self._views: dict[str, np.ndarray] = {}
        self._require_fit(record)
        self.has_checksums = CHECKSUMS in self._columns
        self._expected: dict[str, np.ndarray] = {}
        if self.has_checksums:
            stored = self._words(CHECKSUMS)
            self._expected = {
                name: stored[:, index] for index, name in enumerate(sorted(record.columns))
            }
        #: The rows not read yet, for each column that has such rows.
        self._unchecked = {name: np.ones(record.rows, bool) for name in self._expected}

    def copy(self, column: str, rows: np.ndarray, into: np.ndarray) -> None:
        """Copy rows of a column to `into`, uint8 (rows, bytes of a row)."""
        source, unchecked = self._rows(column), self._unchecked.get(column)
        large, new = source.shape[1] >= _LARGE_ROW, unchecked is not None and unchecked[rows].any()
        if new and not large:
            block = _BLOCK // max(1, source.shape[1])
            for start in (np.unique(rows // block) * block).tolist():
                stop = min(start + block, len(source))
                self._require(column, np.arange(start, stop), checksum.of_rows(source[start:stop]))
        # Readers are threads: one call without the interpreter's lock lets the others run.
        np.take(source, rows, axis=0, out=into, mode="clip")  # `raise` would copy twice
        if new and large:
            self._require(column, rows, checksum.of_rows(into))

    def strings(self, column: str, rows: np.ndarray) -> list[bytes]:
        """Return rows of a ragged column."""
        data, offsets = self._rows(column)[:, 0], self._words(f"{column}.offsets")[:, 0]
        strings = []
        for row in rows.tolist():
            start, stop = offsets[row : row + 2].tolist()
            if not 0 <= start <= stop <= len(data):
                raise ValueError(f"row {row} of {column} lies outside it")
            strings.append(data[start:stop].tobytes())
        unchecked = self._unchecked.get(column)
        if unchecked is not None and unchecked[rows].any():
            self._require(column, rows, checksum.of_strings(strings))
        return strings

    def _require(self, column: str, rows: np.ndarray, checksums: np.ndarray) -> None:
        """Compare the checksums of rows with the stored ones, and remember the rows as checked."""
        wrong = checksums != self._expected[column][rows]
        if wrong.any():
            raise ValueError(f"the checksum of row {rows[wrong.argmax()]} of {column} differs")
        unchecked = self._unchecked.get(column)
        if unchecked is not None:
            unchecked[rows] = False
            if not unchecked.any():
                self._unchecked.pop(column, None)  # another thread may have been first

    def _read_header(self) -> dict[str, tuple[torch.dtype, tuple[int, ...], int]]:
        """Return (dtype, shape, first byte) of each column."""
        first = 8 + int.from_bytes(self._map[:8], "little")
        columns = {}
        try:
            for name, entry in json.loads(self._map[8:first]).items():
                dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
                start, stop = entry["data_offsets"]
                inside = 0 <= start <= stop <= len(self._bytes) - first
                if not inside or stop - start != dtype.itemsize * math.prod(shape):
                    raise ValueError("a column lies outside the file")
                columns[name] = (dtype, shape, first + start)
        except (KeyError, TypeError, AttributeError):
            raise ValueError("its header is damaged") from None
        return columns

    def _require_fit(self, record: ShardRecord) -> None:
        expected: dict[str, tuple[str, list[int]]] = {}
        if CHECKSUMS in self._columns:
            expected[CHECKSUMS] = ("int64", [record.rows, len(record.columns)])
        for name, column in record.columns.items():
            if column.ragged:
                expected[f"{name}.offsets"] = ("int64", [record.rows + 1])
            else:
                expected[name] = (column.dtype, [record.rows, *column.row_shape])
        for name, (dtype, shape) in expected.items():
            layout = self._columns.get(name)
            if layout is None or (str(layout[0]), list(layout[1])) != (f"torch.{dtype}", shape):
                raise ValueError(f"its header is damaged: {name}")

    def _rows(self, column: str) -> np.ndarray:
        """Return a column as uint8 (rows, bytes of a row) on the mapped file."""
        if column not in self._views:
            dtype, shape, offset = self._columns[column]
            size = dtype.itemsize * math.prod(shape[1:])
            data = self._bytes[offset : offset + shape[0] * size]
            self._views[column] = data.reshape(shape[0], size)
        return self._views[column]

    def _words(self, column: str) -> np.ndarray:
        return self._rows(column).view("<i8")


def as_bytes(tensor: torch.Tensor) -> np.ndarray:
    """Return a contiguous CPU tensor (rows, …) as uint8 (rows, bytes of a row), sharing memory."""
    size = tensor.dtype.itemsize * math.prod(tensor.shape[1:])
    if not tensor.numel():
        return np.zeros((len(tensor), size), np.uint8)
    return tensor.view(torch.uint8).reshape(-1, size).numpy()
