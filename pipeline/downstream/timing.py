"""Prediction times of the finished models of a comparison: one row alone, and a batch.

The models take turns in one process on one machine, on its accelerator and on the CPU. Models that
are timed when each is finished, an hour or a node apart, differ by what else the machine was doing
then: on a busy one a student of a third of its teacher's layers was measured as the slower of the
two. Timing is not content: it never goes into a hashed file.
"""

from __future__ import annotations

import gc
import secrets
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from pipeline.artifacts import atomic
from pipeline.console import say
from pipeline.downstream.comparison import Comparison
from pipeline.downstream.encode import encode_labels, pad, token_ids
from pipeline.downstream.predict import (
    generate_ids,
    generation_settings,
    load_fine_tuned,
    score_labels,
)
from pipeline.downstream.results import chosen
from pipeline.downstream.tasks import TaskData, load_task
from pipeline.hardware import cpu_dtype, device_name
from pipeline.models.directory import load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: Rows of a batch that is timed.
BATCH = 16
#: Turns of every model.
ROUNDS = 3
#: Test rows that the batches are made of.
ROWS = 32


@dataclass(frozen=True)
class TimedWork:
    """The work that is timed: score every label text of each row, or generate greedily.

    Exactly `new_tokens` tokens are generated, the same number for every model, since one that stops
    early would look fast.
    """

    #: Token ids of some rows, padded to the longest of them; they repeat where a batch has more.
    sources: Sequence[Sequence[int]]
    #: None to generate.
    labels: Sequence[Sequence[int]] | None
    pad_token_id: int
    new_tokens: int = 24

    @property
    def source_tokens(self) -> int:
        return max(map(len, self.sources))

    def __str__(self) -> str:
        if self.labels is None:
            return f"generate {self.new_tokens} tokens"
        return f"score {len(self.labels)} labels"


class Setting(NamedTuple):
    """Conditions that are equal when models are compared."""

    #: "cuda" or "cpu".
    device: str
    #: The name of the GPU or processor.
    machine: str
    #: The type of the weights.
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
    #: For one batch: the median of `repeats`, the quickest and the slowest.
    milliseconds: float
    quickest: float
    slowest: float
    repeats: int
    rows_per_second: float
    #: None where labels are scored.
    tokens_per_second: float | None
    #: The same for models that were timed in turns, in one process.
    session: str


def time_models(comparison: Comparison) -> None:
    """Write speed.json into one unit of every model.

    For each task on which all models are finished and not all are timed.
    """
    results = chosen(comparison)
    for task in comparison.tasks:
        scored = results[task.name]
        if not all(model in scored for model in comparison.models):
            continue
        roots = {model: scored[model].units[0].root for model in comparison.models}
        if not all((root / "speed.json").is_file() for root in roots.values()):
            say(f"timing {len(roots)} models on {task.name}")
            data = load_task(task.task, comparison.validation_rows)
            _time_in_turns(data, roots, comparison.dtype)


def time_model(
    model: PreTrainedModel, work: TimedWork, *, repeats: int = 3, seconds: float = 10.0
) -> dict[Setting, list[float]]:
    """Return the seconds of a batch of 1 and of BATCH rows, on each device.

    The devices are the model's own and, if that is a GPU, the CPU as well. model: in evaluation
    mode; left as it was. After a warm-up each setting is timed up to `repeats` times, but begins no
    further repeat after `seconds`. The CPU is left out where a single row takes longer than that.
    """
    home, dtype = model.device, model.dtype
    times: dict[Setting, list[float]] = {}
    try:
        for device, kind in _devices(home, dtype):
            model.to(device=device, dtype=kind)  # type: ignore[call-arg]
            batch = _TimedBatch(model, work)
            for size in (1, BATCH):
                measured = batch.times(size, repeats, seconds)
                if measured is None:
                    break
                name = str(kind).removeprefix("torch.")
                times[Setting(device.type, device_name(device.type), name, size)] = measured
    finally:
        model.to(device=home, dtype=dtype)  # type: ignore[call-arg]
    return times


def measurement(
    setting: Setting, times: Sequence[float], work: TimedWork, session: str
) -> Measurement:
    """Sum up the times of one setting."""
    median = statistics.median(times)
    tokens = setting.batch_size * work.new_tokens / median
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
        tokens_per_second=round(tokens, 1) if work.labels is None else None,
        session=session,
    )


def _time_in_turns(data: TaskData, roots: Mapping[str, Path], dtype: str) -> None:
    works = {model: _work(data, root / "hf") for model, root in roots.items()}
    times: dict[str, dict[Setting, list[float]]] = {model: {} for model in roots}
    for _ in range(ROUNDS):
        for model, root in roots.items():
            # Loaded again in each round, since all of them together may not fit.
            loaded = load_fine_tuned(root / "hf", dtype)
            for setting, seconds in time_model(loaded, works[model]).items():
                times[model].setdefault(setting, []).extend(seconds)
            del loaded
            gc.collect()
    session = secrets.token_hex(4)
    for model, root in roots.items():
        lines = [
            measurement(setting, seconds, works[model], session)
            for setting, seconds in times[model].items()
        ]
        atomic.write_json(root / "speed.json", lines)


def _work(data: TaskData, model: Path) -> TimedWork:
    task, tokenizer = data.task, load_tokenizer(model)
    texts = data.test.spread(ROWS).sources
    sources, _ = token_ids(tokenizer, texts, task.source_length, target=False)
    scored = data.labels is not None and task.decoding == "likelihood"
    labels = encode_labels(tokenizer, data) if scored else None
    return TimedWork(sources, labels, tokenizer.pad_token_id)


def _devices(home: torch.device, dtype: torch.dtype) -> Iterator[tuple[torch.device, torch.dtype]]:
    import torch

    yield home, dtype
    if home.type != "cpu":
        yield torch.device("cpu"), getattr(torch, cpu_dtype())


class _TimedBatch:
    def __init__(self, model: PreTrainedModel, work: TimedWork) -> None:
        self._model, self._work = model, work
        length, mask = work.source_tokens, [[1] * len(source) for source in work.sources]
        self._inputs = pad(work.sources, work.pad_token_id, length).to(model.device)
        self._mask = pad(mask, 0, length).to(model.device)
        self._settings = generation_settings(
            model, max_new_tokens=work.new_tokens, min_new_tokens=work.new_tokens, num_beams=1
        )

    def times(self, size: int, repeats: int, seconds: float) -> list[float] | None:
        """Return the seconds of each repeat; None when the warm-up of one row takes too long."""
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
            output = generate_ids(self._model, inputs, mask, self._settings)
            new = output.shape[1] - 1
            assert new >= self._work.new_tokens, (
                f"{new} tokens generated instead of {self._work.new_tokens}"
            )
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began
