"""Numbers logged for the steps since the last log line: means of the losses, rates, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch

from pipeline import ranks
from pipeline.training.loader import Batch, Loader

#: (input length, target length) → operations of training on one example, including the teacher's.
Cost = Callable[[int, int], float]


class Means:
    """Means of loss parts over micro batches. They stay on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0

    def add(self, parts: dict[str, torch.Tensor]) -> None:
        for name, value in parts.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def merge(self, other: Means) -> None:
        for name, value in other._sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += other._count

    def over_ranks(self, world: int) -> dict[str, float]:
        """Return the mean of each part over the added micro batches and the ranks.

        Empty when nothing was added.
        """
        names = sorted(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] for name in names]).double() / self._count
        totals = ranks.sum_over_ranks(means.tolist())
        return {name: value / world for name, value in zip(names, totals, strict=True)}


class Meter:
    """Means and rates over the steps since the last log line."""

    def __init__(self, loader: Loader, cost: Cost, peak: float) -> None:
        """Start the first interval. peak: FLOP/s of one device."""
        self._loader, self._cost, self._peak = loader, cost, peak
        self._means = Means()
        self.restart()

    def restart(self) -> None:
        """Restart the rates, so that the time of a validation or a save is not training time."""
        self._began, self._waited_before = time.perf_counter(), self._loader.waited
        self._tokens = self._flops = 0.0

    def add(self, step: Means, batches: list[Batch]) -> None:
        """Count a step's means and work."""
        self._means.merge(step)
        for batch in batches:
            (rows, source), target = batch["input_ids"].shape, batch["labels"].shape[1]
            self._tokens += rows * (source + target)
            self._flops += rows * self._cost(source, target)

    def close(self, world: int) -> dict[str, float]:
        """Return means over the interval's micro batches and the ranks, rates and memory.

        The keys are their names in the log. The next interval begins.
        """
        values = {
            _logged_name(name): value for name, value in self._means.over_ranks(world).items()
        }
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        tokens, flops = ranks.sum_over_ranks([self._tokens, self._flops])
        values["speed/tokens_per_second"] = tokens / elapsed
        achieved = flops / world / elapsed
        values["speed/tflops_per_device"] = achieved / 1e12
        values["speed/mfu"] = achieved / self._peak
        values["speed/loader_wait_share"] = min(
            1.0, (self._loader.waited - self._waited_before) / elapsed
        )
        values["memory/peak_gib"] = peak_memory_gib()
        self._means = Means()
        self.restart()
        return values


def _logged_name(part: str) -> str:
    return (
        f"weighted/{part.removeprefix('weighted_')}"
        if part.startswith("weighted_")
        else f"loss/{part}"
    )


def peak_memory_gib() -> float:
    """Return the peak memory of this rank in GiB.

    It is what the allocator took on CUDA, and the resident memory of the process on a CPU.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
