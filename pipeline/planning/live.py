"""Bytes of tensors alive while code runs.

They are counted on the meta device too, where nothing is computed or stored.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes alive, `now` and at the `peak`, of the tensors made inside `with LiveBytes() as live:`.

    Every tensor is followed by its storage. What was there before does not count, nor do buffers
    that an operation uses inside. On the meta device, any number that code reads is 1, and a flag
    is true: masks without padding, finite losses. Tensors that it compares are close.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def ignore(self, tensors: Any) -> None:
        """Do not count the storages of these tensors when views of them are made."""
        for tensor in tensors:
            self._watch(tensor.untyped_storage(), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._answer(func, args) if _is_meta(args) else None
        if result is None:
            result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._watch(storage, storage.nbytes())
        return result

    def _watch(self, storage: torch.UntypedStorage, size: int) -> None:
        self._known.add(storage._cdata)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, storage._cdata, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    @staticmethod
    def _answer(func: Any, args: Any) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return (
                True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
            )
        return True if func is torch.ops.aten.allclose.default else None


def _is_meta(args: Any) -> bool:
    return any(
        isinstance(item, torch.Tensor) and item.device.type == "meta" for item in tree_leaves(args)
    )
