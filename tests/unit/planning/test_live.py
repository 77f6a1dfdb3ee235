"""Live bytes of tensors that hold no data."""

from __future__ import annotations

import torch

from pipeline.planning.live import LiveBytes


def test_live_bytes_are_those_of_real_tensors() -> None:
    def work(device: str) -> tuple[int, int]:
        weight = torch.zeros(64, 64, device=device, requires_grad=True)
        with LiveBytes() as live:
            live.ignore([weight])
            hidden = torch.nn.functional.gelu(torch.zeros(8, 64, device=device) @ weight.t())
            kept = live.now
            (hidden * hidden).sum().backward()
        return kept, live.peak

    # The input, the product and its GELU; 2 KiB each.
    assert work("meta") == work("cpu")
    assert work("cpu")[0] == 3 * 8 * 64 * 4
