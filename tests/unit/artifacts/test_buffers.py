"""Memory for rows is reused only when nothing refers to it."""

from __future__ import annotations

import torch

from pipeline.artifacts.buffers import Buffers


def test_memory_is_taken_again_only_when_nothing_refers_to_it() -> None:
    buffers, shape = Buffers(), (1 << 20, 2)
    first = buffers.empty(shape, torch.bfloat16)
    place, part = first.data_ptr(), first[5:7]
    del first
    assert buffers.empty(shape, torch.bfloat16).data_ptr() != place, "a view is alive"
    weight = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    loss = (part * weight).sum()
    del part
    assert buffers.empty(shape, torch.bfloat16).data_ptr() != place, "a graph needs it"
    loss.backward()
    del loss
    assert place in {
        tensor.data_ptr() for tensor in [buffers.empty(shape, torch.bfloat16) for _ in range(1)]
    }
