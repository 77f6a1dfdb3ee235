"""How fast a model answers: one row alone and a batch, on the device it is on and on the CPU. Timing is not content: it never
goes into a hashed file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from pipeline.downstream.encode import pad
from pipeline.downstream.predict import generation_settings, score_labels
from pipeline.hardware import cpu_dtype, device_name

#: Rows of the task whose lengths the measurements take; the longest of them sets the source length.
ROWS = 32


class Measurement(TypedDict):
    #: What a row costs: generating exactly `new_tokens` tokens greedily, or scoring every one of `labels` label texts.
    work: str
    #: "cuda" or "cpu", and what it is called, with its threads on a CPU.
    device: str
    machine: str
    dtype: str
    batch_size: int
    source_tokens: int
    #: Of one batch: the median of `repeats` after a warm-up, the quickest and the slowest.
    milliseconds: float
    quickest: float
    slowest: float
    repeats: int
    rows_per_second: float
    #: None where labels are scored.
    tokens_per_second: float | None


def measure_speed(
    model: Any,
    sources: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    labels: Sequence[Sequence[int]] | None = None,
    batch_size: int = 16,
    new_tokens: int = 24,
    repeats: int = 5,
    seconds: float = 30.0,
) -> list[Measurement]:
    """Time prediction at batch 1 and at `batch_size`: where the model is, and on the CPU as well when that is a GPU.

    sources: token ids of the task's rows. labels: token ids of each label text; without them, text is generated: the same
    number of tokens for every model, since one that stops early would look fast. Every row is padded to one length. A
    measurement begins no further repeat after `seconds`, and the CPU is left out where a single row takes longer than that.
    The model is left as it was.
    """
    home, dtype = model.device, model.dtype
    places = [(home, dtype)] if home.type == "cpu" else [(home, dtype), (_cpu(), _dtype(cpu_dtype()))]
    found: list[Measurement] = []
    try:
        for device, kind in places:
            run = _work(model.to(device=device, dtype=kind), sources, pad_token_id, labels, new_tokens)
            for size in (1, batch_size):
                times = _times(run, size, device, repeats, seconds)
                if not times:
                    break
                found.append(_measurement(times, size, model, sources, labels, new_tokens))
    finally:
        model.to(device=home, dtype=dtype)
    return found


def _work(
    model: Any,
    sources: Sequence[Sequence[int]],
    pad_token_id: int,
    labels: Sequence[Sequence[int]] | None,
    new_tokens: int,
) -> Callable[[int, int], None]:
    """Return a function of (first row, batch size) that predicts those rows; rows repeat where there are few."""
    length = _length(sources)
    inputs = pad(sources[:ROWS], pad_token_id, length).to(model.device)
    mask = pad([[1] * len(source) for source in sources[:ROWS]], 0, length).to(model.device)
    settings = generation_settings(model, max_new_tokens=new_tokens, min_new_tokens=new_tokens, num_beams=1)

    def run(first: int, size: int) -> None:
        rows = [(first + i) % len(inputs) for i in range(size)]
        if labels is not None:
            score_labels(model, inputs[rows], mask[rows], labels)
            return
        output = model.generate(input_ids=inputs[rows], attention_mask=mask[rows], generation_config=settings)
        assert output.shape[1] > new_tokens, f"{output.shape[1] - 1} tokens generated instead of {new_tokens}"

    return run


def _times(run: Callable[[int, int], None], size: int, device: Any, repeats: int, seconds: float) -> list[float]:
    """Seconds of up to `repeats` batches; none when the warm-up of a single row already takes too long."""
    import torch

    def once(first: int) -> float:
        began = time.perf_counter()
        run(first, size)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    with torch.inference_mode():
        began, warm_up = time.monotonic(), once(0)
        if size == 1 and warm_up > seconds:
            return []
        times: list[float] = []
        while len(times) < repeats and (not times or time.monotonic() - began < seconds):
            times.append(once(size * len(times)))
    return times


def _measurement(
    times: list[float],
    size: int,
    model: Any,
    sources: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]] | None,
    new_tokens: int,
) -> Measurement:
    median = statistics.median(times)
    return Measurement(
        work=f"generate {new_tokens} tokens" if labels is None else f"score {len(labels)} labels",
        device=model.device.type,
        machine=device_name(model.device.type),
        dtype=str(model.dtype).removeprefix("torch."),
        batch_size=size,
        source_tokens=_length(sources),
        milliseconds=round(1e3 * median, 3),
        quickest=round(1e3 * min(times), 3),
        slowest=round(1e3 * max(times), 3),
        repeats=len(times),
        rows_per_second=round(size / median, 3),
        tokens_per_second=None if labels is not None else round(size * new_tokens / median, 1),
    )


def _length(sources: Sequence[Sequence[int]]) -> int:
    return max(map(len, sources[:ROWS]))


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
