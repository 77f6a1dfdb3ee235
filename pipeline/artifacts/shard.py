"""Writing one shard a few rows at a time, so that a shard may be larger than memory.

A shard is a safetensors file. A column of fixed-size rows is one tensor. A ragged column `x`, whose
rows are byte strings of differing length, is two tensors: `x`, all bytes one after the other, and
`x.offsets`, int64 (rows + 1), where each row begins. `checksums`, int64 (rows, columns by name),
lets a reader check the rows it reads instead of the whole shard.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts import atomic, checksum
from pipeline.artifacts.manifest import Column
from pipeline.artifacts.mapped import CHECKSUMS, DTYPES, as_bytes

#: Rows of one column: a CPU tensor whose first dimension is the rows, or a byte string for each.
Rows = torch.Tensor | Sequence[bytes]

_SAFETENSORS = {dtype: name for name, dtype in DTYPES.items()}
#: The header's length is fixed before the first row is written; the rest is filled with spaces.
_HEADER_BYTES = 4096


class ShardFile:
    """The data of one shard under a temporary name, until `publish` renames it.

    Raises OSError if the disk is full.
    """

    def __init__(self, path: Path, rows: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._rows, self._written = path, rows, 0
        self._temporary = atomic.temporary_name(path)
        self._file = open(self._temporary, "w+b")
        self._fixed: dict[str, tuple[torch.dtype, tuple[int, ...], int]] = {}
        self._ragged: dict[str, list[bytes]] = {}
        self._checksums: dict[str, list[np.ndarray]] = {}
        self._end = 8 + _HEADER_BYTES

    @property
    def columns(self) -> dict[str, Column]:
        """The columns as the sidecar lists them."""
        fixed = {
            name: Column(dtype=str(dtype).removeprefix("torch."), row_shape=list(shape))
            for name, (dtype, shape, _) in self._fixed.items()
            if name != CHECKSUMS
        }
        ragged = Column(dtype="uint8", row_shape=[], ragged=True)
        return fixed | dict.fromkeys(self._ragged, ragged)

    def append(self, columns: Mapping[str, Rows]) -> None:
        """Write the next rows; every call names the same columns."""
        if not self._written:
            self._lay_out(columns)
        count = {len(rows) for rows in columns.values()}
        assert len(count) == 1, f"columns differ in rows: {count}"
        assert columns.keys() == self._checksums.keys()
        for name, rows in columns.items():
            if not isinstance(rows, torch.Tensor):
                self._ragged[name] += rows
                self._checksums[name].append(checksum.of_strings(rows))
                continue
            dtype, shape, offset = self._fixed[name]
            assert (rows.dtype, tuple(rows.shape[1:])) == (dtype, shape), name
            self._file.seek(offset + self._written * _row_bytes(dtype, shape))
            data = as_bytes(rows.contiguous())
            self._checksums[name].append(checksum.of_rows(data))
            if rows.numel():
                self._file.write(data.data)
        self._written += count.pop()

    def publish(self) -> tuple[int, str]:
        """Write the header, flush to disk, rename; returns the file's size and sha256."""
        assert self._written == self._rows, f"{self._written} of {self._rows} rows were written"
        header = {
            name: self._entry(dtype, (self._rows, *shape), offset)
            for name, (dtype, shape, offset) in self._fixed.items()
        }
        for name, rows in self._ragged.items():
            header |= self._write_ragged(name, rows)
        if CHECKSUMS in self._fixed:
            self._file.seek(self._fixed[CHECKSUMS][2])
            columns = [np.concatenate(parts) for _, parts in sorted(self._checksums.items())]
            self._file.write(np.stack(columns, axis=1).tobytes())
        text = json.dumps(header, separators=(",", ":")).encode()
        assert len(text) <= _HEADER_BYTES, f"a header of {len(text)} bytes"
        self._file.seek(0)
        self._file.write(_HEADER_BYTES.to_bytes(8, "little") + text.ljust(_HEADER_BYTES))
        self._file.truncate(self._end)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        # Read back from the page cache: columns were written in turns, the hash needs file order.
        digest = atomic.sha256_file(self._temporary)
        os.replace(self._temporary, self._path)
        atomic.fsync_directory(self._path.parent)
        return self._end, digest

    def discard(self) -> None:
        """Remove the temporary file."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write_ragged(self, name: str, rows: Sequence[bytes]) -> dict[str, dict[str, object]]:
        """Write a ragged column at the end; returns the header entries of its two tensors."""
        offsets = np.zeros(self._rows + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        entries = {}
        for column, data, dtype in (
            (f"{name}.offsets", offsets.tobytes(), torch.int64),
            (name, b"".join(rows), torch.uint8),
        ):
            self._file.seek(self._end)
            self._file.write(data)
            entries[column] = self._entry(dtype, (len(data) // dtype.itemsize,), self._end)
            self._end += len(data)
        return entries

    def _lay_out(self, columns: Mapping[str, Rows]) -> None:
        tensors = {name: rows for name, rows in columns.items() if isinstance(rows, torch.Tensor)}
        self._checksums = {name: [] for name in columns}
        self._fixed[CHECKSUMS] = (torch.int64, (len(columns),), self._end)
        self._end += self._rows * _row_bytes(torch.int64, (len(columns),))
        # Wide elements first keeps every column aligned to its elements.
        for name, rows in sorted(
            tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])
        ):
            shape = tuple(rows.shape[1:])
            self._fixed[name] = (rows.dtype, shape, self._end)
            self._end += self._rows * _row_bytes(rows.dtype, shape)
        self._ragged = {name: [] for name in sorted(columns.keys() - tensors.keys())}

    @staticmethod
    def _entry(dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> dict[str, object]:
        start = offset - 8 - _HEADER_BYTES
        return {
            "dtype": _SAFETENSORS[dtype],
            "shape": list(shape),
            "data_offsets": [start, start + _row_bytes(dtype, shape)],
        }


def _row_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * math.prod(shape)
