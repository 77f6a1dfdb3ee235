"""Memory for batches that is taken again once nothing refers to it.

To have the system map and clear fresh pages costs several times what it costs to fill them.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
import torch

#: Smaller tensors are left to the allocator, which keeps such blocks itself.
_LEAST = 1 << 20
#: Where in a page of memory a buffer begins: half a page from where a shard's columns do. A load from and a store to the same place of
#: different pages wait for each other, which costs a copy a fifth of its speed.
_PAGE, _PLACE = 4096, 2048
#: So many buffers of one size are kept; more in use at a time are given back when done with.
_MOST = 32


class Buffers:
    def __init__(self) -> None:
        self._arrays: dict[int, list[np.ndarray]] = {}
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised CPU tensor; pinned where there is a GPU to copy to."""
        size = dtype.itemsize * math.prod(shape)
        if size < _LEAST:
            return torch.empty(shape, dtype=dtype)
        if torch.cuda.is_initialized():
            return torch.empty(
                shape, dtype=dtype, pin_memory=True
            )  # from a cache of the like, which waits for copies
        with self._lock:
            arrays = self._arrays.setdefault(size, [])
            for place in range(len(arrays)):
                # A tensor made from an array refers to it for as long as it, a view or a graph that needs it lives.
                if sys.getrefcount(arrays[place]) == 2:  # the list's reference and the call's own
                    return torch.from_numpy(arrays[place]).view(dtype).view(shape)
            array = _allocate(size)
            if len(arrays) < _MOST:
                arrays.append(array)
            return torch.from_numpy(array).view(dtype).view(shape)


def _allocate(size: int) -> np.ndarray:
    memory = np.empty(size + _PAGE, np.uint8)
    start = (_PLACE - memory.ctypes.data) % _PAGE
    return memory[start : start + size]


BUFFERS = Buffers()
