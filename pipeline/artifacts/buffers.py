"""Memory for batches, used again once nothing refers to it.

Mapping and zeroing fresh pages costs several times more than filling them.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import torch

#: Smaller tensors are left to the allocator, which keeps such blocks itself.
_MIN_BYTES = 1 << 20
#: Offset of a buffer in its page: half a page from the offset of a shard's columns. A load and a
#: store at the same offset of different pages wait for each other, which costs a copy a fifth of
#: its speed.
_PAGE, _OFFSET = 4096, 2048
#: Buffers of one size to keep. More may be in use at a time; those are freed after use.
_MAX_KEPT = 32


class Buffers:
    """A pool of CPU memory for tensors, safe to use from several threads."""

    def __init__(self) -> None:
        self._arrays: dict[int, list[np.ndarray]] = {}
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised CPU tensor, pinned if there is a GPU to copy to."""
        size = dtype.itemsize * math.prod(shape)
        if size < _MIN_BYTES:
            return torch.empty(shape, dtype=dtype)
        if torch.cuda.is_initialized():
            # PyTorch keeps a similar pool of pinned memory, which waits for copies to the GPU.
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        with self._lock:
            arrays = self._arrays.setdefault(size, [])
            for index in range(len(arrays)):
                # A tensor made from an array refers to it as long as the tensor, a view of it or
                # a graph that needs it lives.
                if sys.getrefcount(arrays[index]) == 2:  # the list's reference and the call's own
                    return torch.from_numpy(arrays[index]).view(dtype).view(shape)
            array = _allocate(size)
            if len(arrays) < _MAX_KEPT:
                arrays.append(array)
            return torch.from_numpy(array).view(dtype).view(shape)


def _allocate(size: int) -> np.ndarray:
    memory = np.empty(size + _PAGE, np.uint8)
    start = (_OFFSET - memory.ctypes.data) % _PAGE
    return memory[start : start + size]


BUFFERS = Buffers()
