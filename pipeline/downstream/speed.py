"""How fast a model generates. Timing is not content: it never goes into a hashed file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from pipeline.downstream.encode import pad
from pipeline.downstream.predict import generation_settings


def measure_speed(
    model: Any,
    sources: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    rows: int = 32,
    batch_size: int = 16,
    new_tokens: int = 24,
    repeats: int = 3,
) -> dict[str, float | int]:
    """Greedy generation of exactly `new_tokens` tokens a row, after a warm-up; medians of `repeats` measurements.

    The same token count for every model: one that stops early would look fast. Sources are the first `rows`, repeated when
    there are fewer, padded to the longest of them. Returns generated_tokens_per_second (at `batch_size`),
    latency_milliseconds (one row alone, all its tokens) and the sizes they were measured at.
    """
    import torch

    chosen = [sources[i % len(sources)] for i in range(rows)]
    length = max(map(len, chosen))
    inputs = pad(chosen, pad_token_id, length).to(model.device)
    mask = pad([[1] * len(s) for s in chosen], 0, length).to(model.device)
    settings = generation_settings(model, max_new_tokens=new_tokens, min_new_tokens=new_tokens, num_beams=1)

    def seconds(start: int, stop: int, size: int) -> float:
        began = time.perf_counter()
        for first in range(start, stop, size):
            some = slice(first, min(first + size, stop))
            output = model.generate(input_ids=inputs[some], attention_mask=mask[some], generation_config=settings)
            assert output.shape[1] > new_tokens, f"{output.shape[1] - 1} tokens generated instead of {new_tokens}"
        if inputs.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    with torch.inference_mode():
        seconds(0, min(rows, batch_size), batch_size)
        batched = statistics.median(seconds(0, rows, batch_size) for _ in range(repeats))
        single = statistics.median(seconds(i % rows, i % rows + 1, 1) for i in range(repeats))
    return {
        "generated_tokens_per_second": round(rows * new_tokens / batched, 1),
        "latency_milliseconds": round(1000 * single, 2),
        "batch_size": batch_size,
        "new_tokens": new_tokens,
        "source_tokens": length,
    }
