"""How long a model takes to answer: one row alone and a batch, where it is and on the CPU. Timing is not content: it never
goes into a hashed file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

from pipeline.downstream.encode import pad
from pipeline.downstream.predict import generation_settings, score_labels
from pipeline.hardware import cpu_dtype, device_name

#: Rows of a batch that is timed.
BATCH = 16


@dataclass(frozen=True)
class Work:
    """What is timed: scoring every label text of each row, or without labels generating exactly `new_tokens` tokens greedily.

    The same number of tokens for every model, since one that stops early would look fast.
    """

    #: Token ids of some rows, padded to the longest of them; they repeat where a batch has more rows.
    sources: Sequence[Sequence[int]]
    labels: Sequence[Sequence[int]] | None
    pad_token_id: int
    new_tokens: int = 24

    @property
    def source_tokens(self) -> int:
        return max(map(len, self.sources))

    def __str__(self) -> str:
        return (
            f"generate {self.new_tokens} tokens"
            if self.labels is None
            else f"score {len(self.labels)} labels"
        )


class Setting(NamedTuple):
    """What is held equal when models are compared."""

    #: "cuda" or "cpu", what that is called, and the type of the weights.
    device: str
    machine: str
    dtype: str
    batch_size: int


class Measurement(TypedDict):
    """One line of a unit's speed.json."""

    work: str
    device: str
    machine: str
    dtype: str
    batch_size: int
    source_tokens: int
    #: Of one batch: the median of `repeats`, the quickest and the slowest.
    milliseconds: float
    quickest: float
    slowest: float
    repeats: int
    rows_per_second: float
    #: None where labels are scored.
    tokens_per_second: float | None
    #: The same for models that were timed in alternation, in one process.
    session: str


def time_model(
    model: Any, work: Work, *, repeats: int = 3, seconds: float = 10.0
) -> dict[Setting, list[float]]:
    """Seconds of a batch at batch 1 and at BATCH: where the model is, and on the CPU as well when that is a GPU.

    model: in evaluation mode; left as it was. After a warm-up each setting is timed up to `repeats` times, but begins no
    further repeat after `seconds`; the CPU is left out where a single row takes longer than that.
    """
    home, dtype = model.device, model.dtype
    found: dict[Setting, list[float]] = {}
    try:
        for device, kind in _places(home, dtype):
            model.to(device=device, dtype=kind)
            batch = _Batch(model, work)
            for size in (1, BATCH):
                times = batch.times(size, repeats, seconds)
                if times is None:
                    break
                name = str(kind).removeprefix("torch.")
                found[Setting(device.type, device_name(device.type), name, size)] = times
    finally:
        model.to(device=home, dtype=dtype)
    return found


def measurement(setting: Setting, times: Sequence[float], work: Work, session: str) -> Measurement:
    """Sum up the times of one setting."""
    median = statistics.median(times)
    return Measurement(
        work=str(work),
        device=setting.device,
        machine=setting.machine,
        dtype=setting.dtype,
        batch_size=setting.batch_size,
        source_tokens=work.source_tokens,
        milliseconds=round(1e3 * median, 3),
        quickest=round(1e3 * min(times), 3),
        slowest=round(1e3 * max(times), 3),
        repeats=len(times),
        rows_per_second=round(setting.batch_size / median, 3),
        tokens_per_second=round(setting.batch_size * work.new_tokens / median, 1)
        if work.labels is None
        else None,
        session=session,
    )


def _places(home: Any, dtype: Any) -> Iterator[tuple[Any, Any]]:
    import torch

    yield home, dtype
    if home.type != "cpu":
        yield torch.device("cpu"), getattr(torch, cpu_dtype())


class _Batch:
    def __init__(self, model: Any, work: Work) -> None:
        self._model, self._work = model, work
        self._inputs = pad(work.sources, work.pad_token_id, work.source_tokens).to(model.device)
        self._mask = pad([[1] * len(source) for source in work.sources], 0, work.source_tokens).to(
            model.device
        )
        self._settings = generation_settings(
            model, max_new_tokens=work.new_tokens, min_new_tokens=work.new_tokens, num_beams=1
        )

    def times(self, size: int, repeats: int, seconds: float) -> list[float] | None:
        """None when the warm-up of a single row takes too long."""
        import torch

        with torch.inference_mode():
            began, warm_up = time.monotonic(), self._once(0, size)
            if size == 1 and warm_up > seconds and self._model.device.type == "cpu":
                return None
            times: list[float] = []
            while len(times) < repeats and (not times or time.monotonic() - began < seconds):
                times.append(self._once(size * len(times), size))
        return times

    def _once(self, first: int, size: int) -> float:
        import torch

        rows = [(first + index) % len(self._inputs) for index in range(size)]
        inputs, mask = self._inputs[rows], self._mask[rows]
        began = time.perf_counter()
        if self._work.labels is not None:
            score_labels(self._model, inputs, mask, self._work.labels)
        else:
            output = self._model.generate(
                input_ids=inputs, attention_mask=mask, generation_config=self._settings
            )
            new = output.shape[1] - 1
            assert new >= self._work.new_tokens, (
                f"{new} tokens generated instead of {self._work.new_tokens}"
            )
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began
