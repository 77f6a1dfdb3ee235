"""The training loop shared by distillation and fine-tuning: resume, step, log, validate, save, stop when asked.

What is trained on which rows with which loss is the caller's; what is here is everything that must not go wrong over weeks.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from pipeline.console import Progress, say
from pipeline.errors import PipelineError, Preempted
from pipeline.recipe import Optimisation
from pipeline.training import distributed
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.engine import deepspeed_config, initialize
from pipeline.training.loader import Batch, BatchSource, Loader
from pipeline.training.metrics import MetricsLog
from pipeline.training.order import SampleOrder
from pipeline.training.preemption import StopRequest

#: (engine, batch, step) → named scalar tensors; "loss" is trained on, the others are logged as loss/<name>.
LossFn = Callable[[Any, Batch, int], dict[str, torch.Tensor]]
#: (engine, step) → named numbers, logged as validation/<name>. Every rank calls it.
ValidateFn = Callable[[Any, int], dict[str, float]]


class Carried(Protocol):
    """What a loss carries from step to step beside the weights; checkpoints keep it (JSON values)."""

    @property
    def follows_means(self) -> bool:
        """Whether `after_step` must be called; it costs a reduction over the ranks at every step."""
        ...

    def after_step(self, step: int, means: Mapping[str, float]) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Trained(NamedTuple):
    #: The DeepSpeed engine after the last step, in evaluation mode.
    engine: Any
    #: What the last validation found; empty when nothing validates.
    validation: dict[str, float]


def learning_rate(settings: Optimisation, step: int) -> float:
    """Learning rate of optimiser step `step`, counted from 0: linear warm-up, then the schedule down to final_fraction."""
    warmup = min(settings.warmup_steps, settings.max_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - warmup) / max(1, settings.max_steps - warmup)
    remaining = 0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1 - progress
    return settings.learning_rate * (settings.final_fraction + (1 - settings.final_fraction) * remaining)


def train(
    *,
    model: nn.Module,
    settings: Optimisation,
    source: BatchSource,
    loss: LossFn,
    out: Path,
    identity: str,
    seed: int,
    label: str,
    validate: ValidateFn | None = None,
    carried: Carried | None = None,
    order: SampleOrder | None = None,
) -> Trained:
    """Train `model` for settings.max_steps optimiser steps.

    model: its weights from `engine.load_model`. source: the rows; which of them make a batch is `order`'s to say, `SampleOrder` when absent. out: takes
    checkpoints/, tensorboard/ and metrics.jsonl. identity: fingerprint that a checkpoint must bear to be resumed from. carried:
    state of the loss that checkpoints keep. Call `distributed.setup()` first. Raises Preempted after saving when a signal asked
    to stop, and PipelineError when settings.max_skipped_steps steps in a row had gradients that are not finite.
    """
    rank, world = distributed.rank(), distributed.world_size()
    checkpoints = Checkpoints(out / "checkpoints", identity, settings.keep_checkpoints)
    newest = checkpoints.newest()
    engine = initialize(model, settings, universal=newest is not None and newest.resharded)
    start = 0
    if newest is not None:
        checkpoints.load(engine, newest)
        start = newest.step
        if carried is not None:
            carried.restore(newest.state)
        if rank == 0:
            say(f"{label}: resuming after step {start}")
    order = order or SampleOrder(source.shard_rows, settings.batch_size, seed)
    micro = deepspeed_config(settings)["train_micro_batch_size_per_gpu"]
    loader = Loader(
        source,
        order,
        start=start,
        stop=settings.max_steps,
        rank=rank,
        world=world,
        micro=micro,
        device=distributed.device(),
    )
    window = _Window(loader)
    validation: dict[str, float] | None = None
    saved_at = time.monotonic()
    skipped, in_a_row = engine.skipped_steps, 0
    engine.train()
    with (
        StopRequest() as stop,
        MetricsLog(out, start, active=rank == 0) as log,
        Progress(label, settings.max_steps, "step", start=start, quiet=rank != 0) as progress,
    ):
        for step, batches in loader:
            rate = learning_rate(settings, step)
            for group in engine.optimizer.param_groups:
                group["lr"] = rate
            # Dropout depends on (seed, step, rank) alone: nothing to save, nothing to restore.
            torch.manual_seed(_mix(seed, step, rank))
            of_step = _Means()
            for batch in batches:
                parts = loss(engine, batch, step)
                engine.backward(parts["loss"])
                engine.step()
                of_step.add(parts)
            done = step + 1
            if engine.skipped_steps > skipped:
                # DeepSpeed leaves weights and moments as they were when the gradient's norm is not finite, on every rank.
                skipped, in_a_row = engine.skipped_steps, in_a_row + 1
                if rank == 0:
                    say(f"{label}: step {done} skipped, its gradient is not finite ({in_a_row} in a row)")
                if in_a_row >= settings.max_skipped_steps:
                    checkpoints.save(engine, done, carried.state() if carried is not None else {})
                    raise _not_finite(label, done, in_a_row, order, step, checkpoints)
            else:
                in_a_row = 0
                window.add(of_step, batches)
                if carried is not None and carried.follows_means:
                    carried.after_step(step, of_step.over_ranks(world))
            last = done == settings.max_steps
            if done % settings.log_every == 0 or last:
                values = window.close(world)
                values |= {
                    "train/learning_rate": rate,
                    "train/gradient_norm": _finite(float(engine.get_global_grad_norm() or 0.0)),
                    "train/skipped_steps": float(skipped),
                }
                log.write(done, values)
                loss_now = f"loss {values['loss/loss']:.3f}" if "loss/loss" in values else "no finite loss"
                detail = f"{loss_now}, {values['speed/tokens_per_second']:.0f} tokens/s"
                progress.advance(0, detail)
            if validate is not None and (done % settings.validate_every == 0 or last):
                validation = _validated(validate, engine, done)
                log.write(done, {f"validation/{name}": value for name, value in validation.items()})
                window.restart()
            progress.advance()
            overdue = time.monotonic() - saved_at > settings.save_minutes * 60
            asked, due = distributed.sum_over_ranks([float(stop.received is not None), float(overdue)])
            stopping = asked > 0
            if done % settings.save_every == 0 or stopping or due > 0 or last:
                began = time.perf_counter()
                checkpoints.save(engine, done, carried.state() if carried is not None else {})
                log.write(done, {"speed/checkpoint_seconds": time.perf_counter() - began})
                saved_at = time.monotonic()
                window.restart()
            if stopping and not last:
                raise Preempted(f"{label}: saved after step {done} on {stop.received or 'another rank’s signal'}")
    if validate is not None and validation is None:
        validation = _validated(validate, engine, settings.max_steps)
    engine.eval()
    return Trained(engine, validation or {})


def _validated(validate: ValidateFn, engine: Any, step: int) -> dict[str, float]:
    engine.eval()
    values = validate(engine, step)
    engine.train()
    return values


class _Means:
    """Means of loss parts over micro batches. They stay on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0

    def add(self, parts: dict[str, torch.Tensor]) -> None:
        for name, value in parts.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def merge(self, other: _Means) -> None:
        for name, value in other._sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += other._count

    def over_ranks(self, world: int) -> dict[str, float]:
        """The mean of each part over the micro batches added and the ranks; empty when there were none."""
        names = sorted(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] for name in names]).double() / self._count
        totals = distributed.sum_over_ranks(means.tolist())
        return {name: value / world for name, value in zip(names, totals, strict=True)}


class _Window:
    """Means and rates over the steps since the last log line."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._means, self._tokens = _Means(), 0
        self.restart()

    def restart(self) -> None:
        """Do not count the time since the last log line (validation, saving) as training time."""
        self._began, self._waited_before, self._tokens = time.perf_counter(), self._loader.waited, 0

    def add(self, step: _Means, batches: list[Batch]) -> None:
        """Count a step's means and tokens."""
        self._means.merge(step)
        self._tokens += sum(batch[name].numel() for batch in batches for name in ("input_ids", "labels"))

    def close(self, world: int) -> dict[str, float]:
        """Means over the window's micro batches and the ranks, rates and memory, by their names in the log."""
        values = {_logged_name(name): value for name, value in self._means.over_ranks(world).items()}
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        values["speed/tokens_per_second"] = self._tokens * world / elapsed
        values["speed/loader_wait_share"] = min(1.0, (self._loader.waited - self._waited_before) / elapsed)
        values["memory/peak_gib"] = peak_memory_gib()
        self._means = _Means()
        self.restart()
        return values


def _logged_name(part: str) -> str:
    return f"weighted/{part.removeprefix('weighted_')}" if part.startswith("weighted_") else f"loss/{part}"


def peak_memory_gib() -> float:
    """Peak memory of this rank: the device's allocator on CUDA, resident memory of the process on CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _not_finite(
    label: str, done: int, in_a_row: int, order: SampleOrder, step: int, checkpoints: Checkpoints
) -> PipelineError:
    rows = ", ".join(f"{shard}:{row}" for shard, row in order.batch(step)[:8])
    return PipelineError(
        f"{label}: the gradients of {in_a_row} steps in a row were not finite, the last at step {done} (its rows, shard:row, "
        f"begin with {rows}); finite weights are saved in {checkpoints.root}: lower learning_rate, use dtype float32, or look at "
        "these rows; remove the checkpoints to begin anew"
    )


def _mix(*parts: int) -> int:
    """Hash small integers into one 63-bit seed (splitmix64's finaliser between them)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ part) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1
