"""The training loop shared by distillation and fine-tuning.

It resumes, steps, logs, validates, saves and stops when asked. A `Task` says what is trained and
with which loss. Everything that must work for weeks is here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.profiler import record_function

from pipeline import ranks
from pipeline.console import Progress, say
from pipeline.errors import ConfigError, Preempted
from pipeline.hardware import resolve_dtype
from pipeline.recipe import Optimisation
from pipeline.training.checkpoints import Checkpoint, Checkpoints
from pipeline.training.configuration import micro_batch_size
from pipeline.training.engine import initialize, replace_weights, set_learning_rate
from pipeline.training.finite import is_finite, not_finite, offending_rows
from pipeline.training.learning_rate import learning_rate
from pipeline.training.loader import Batch, BatchSource, Loader
from pipeline.training.meter import Means, Meter
from pipeline.training.metrics import MetricsLog
from pipeline.training.order import SampleOrder
from pipeline.training.peak import peak_flops
from pipeline.training.preemption import StopRequest
from pipeline.training.task import Engine, Task
from pipeline.training.trace import Trace
from pipeline.training.watch import Watch


class Destination(NamedTuple):
    """The output directory of a training run, and what identifies the run."""

    #: The directory of checkpoints/, tensorboard/, metrics.jsonl and profile/.
    root: Path
    #: The fingerprint that a checkpoint must have to be resumed from.
    identity: str
    #: Decides dropout.
    seed: int


class Trained(NamedTuple):
    """The result of a training run."""

    #: In evaluation mode, with the weights that settings.export chooses. Do not train it further.
    engine: Engine
    #: The numbers of the last validation of these weights; empty when nothing validates.
    validation: dict[str, float]
    #: Optimiser steps made; fewer than max_steps if settings.patience ran out.
    steps: int
    #: The step whose weights these are.
    exported: int


def train(
    model: nn.Module,
    task: Task,
    source: BatchSource,
    order: SampleOrder,
    settings: Optimisation,
    destination: Destination,
) -> Trained:
    """Train `model` for settings.max_steps optimiser steps, or until settings.patience runs out.

    model: as `engine.load_model` returns it. source: the rows; `order` says which of them make a
    batch. Call `distributed.setup()` first. Raises Preempted after saving when a signal asked to
    stop. Raises ConfigError when the settings need a validation and there is none. Raises
    PipelineError when settings.max_skipped_steps steps in a row had gradients that are not finite.
    """
    if not task.validates and (_keeps_best(settings) or settings.patience is not None):
        raise ConfigError(
            f"{task.label}: patience, keep_best and export=best need validation rows, "
            "and there are none"
        )
    loop = _Loop(model, task, source, order, settings, destination)
    loop.run()
    return loop.result()


class _Loop:
    """One run of `train`: the state that its methods share."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        source: BatchSource,
        order: SampleOrder,
        settings: Optimisation,
        destination: Destination,
    ) -> None:
        self.task, self.settings, self.order = task, settings, order
        self.root, self.seed = destination.root, destination.seed
        self.rank, self.world = ranks.rank(), ranks.world_size()
        self.micro = micro_batch_size(settings, self.world)
        self.checkpoints = Checkpoints(
            self.root / "checkpoints",
            destination.identity,
            settings.keep_checkpoints,
            settings.keep_every,
        )
        newest = self.checkpoints.newest()
        self.engine = initialize(model, settings, universal=newest is not None and newest.resharded)
        self.watch = Watch(settings, task.label, self.engine)
        self.start = self._resume(newest)
        #: Optimiser steps made so far.
        self.done = self.start
        self.validation: dict[str, float] | None = None
        self.loader = Loader(
            source,
            order,
            start=self.start,
            stop=self.start if self.watch.convergence.exhausted else settings.max_steps,
            rank=self.rank,
            world=self.world,
            micro=self.micro,
            device=ranks.device(),
        )
        self.meter = Meter(self.loader, task.flops, _peak(settings))

    def run(self) -> None:
        """Make every step that is left."""
        settings = self.settings
        self.saved_at = time.monotonic()
        self.engine.train()
        with (
            StopRequest() as stop,
            MetricsLog(self.root, self.start, active=self.rank == 0) as self.log,
            Progress(
                self.task.label,
                settings.max_steps,
                "step",
                start=self.start,
                quiet=self.rank != 0,
            ) as self.progress,
            Trace(
                self.root / "profile" if settings.profile else None,
                settings.max_steps - self.start,
            ) as trace,
        ):
            for step, batches in self.loader:
                self._step(step, batches)
                last = self.done == settings.max_steps
                if self.done % settings.log_every == 0 or last:
                    self._log(step)
                improved = self._validate_if_due(last)
                last = last or self.watch.convergence.exhausted
                trace.step()
                self.progress.advance()
                stopping = self._save_if_due(stop, improved, last)
                if last:
                    break
                if stopping:
                    signal = stop.received or "another rank’s signal"
                    raise Preempted(f"{self.task.label}: saved after step {self.done} on {signal}")

    def result(self) -> Trained:
        """Return the engine with the weights to export, and the validation of these weights."""
        convergence, done = self.watch.convergence, self.done
        if convergence.exhausted and self.rank == 0:
            say(
                f"{self.task.label}: stopped after step {done}; validations in a row without "
                f"improvement: {self.settings.patience}"
            )
        self.engine.eval()
        exported = done
        if self.settings.export == "best" and convergence.best_step not in (None, done):
            exported = convergence.best_step
            weights = self.checkpoints.weights(exported) if self.rank == 0 else {}
            replace_weights(self.engine.module, weights)
        if self.task.validates and (self.validation is None or exported != done):
            self.validation = self.task.validate(self.engine, exported)
        return Trained(self.engine, self.validation or {}, done, exported)

    def _resume(self, newest: Checkpoint | None) -> int:
        """Load a checkpoint, if there is one, and return the number of steps made before it."""
        if newest is None:
            return 0
        self.checkpoints.load(self.engine, newest)
        self.watch.restore(newest.state.get("loop", {}))
        self.task.restore(newest.state)
        if self.rank == 0:
            say(f"{self.task.label}: resuming after step {newest.step}")
        return newest.step

    def _step(self, step: int, batches: list[Batch]) -> None:
        """Make one optimiser step."""
        set_learning_rate(self.engine, learning_rate(self.settings, step))
        # Dropout depends only on (seed, step, rank): nothing to save, nothing to restore.
        torch.manual_seed(_mix(self.seed, step, self.rank))
        means = Means()
        for batch in batches:
            with record_function("forward"):
                parts = self.task.loss(self.engine, batch, step)
            with record_function("backward"):
                self.engine.backward(parts["loss"])
            with record_function("optimizer"):
                self.engine.step()
            means.add(parts)
        self.done = step + 1
        if self.watch.skipped(self.done):
            if self.watch.skipped_in_a_row >= self.settings.max_skipped_steps:
                self._give_up(step, batches)
            return
        self.meter.add(means, batches)
        if self.task.follows_means:
            self.task.after_step(step, means.over_ranks(self.world))

    def _give_up(self, step: int, batches: list[Batch]) -> None:
        """End the run with an error that names the rows at fault; weights are saved if finite."""
        self.engine.eval()
        rows = [row for part in self.order.micro_batches(step, self.micro) for row in part]
        bad = offending_rows(self.engine, self.task.loss, step, batches, rows)
        saved = is_finite(self.engine)
        if saved:
            self._save()
        where = self.checkpoints.root if saved else None
        skipped = self.watch.skipped_in_a_row
        raise not_finite(self.task.label, self.done, skipped, bad, rows, where)

    def _log(self, step: int) -> None:
        values = self.meter.close(self.world)
        values["train/learning_rate"] = learning_rate(self.settings, step)
        values |= self.watch.values()
        self.log.write(self.done, values)
        loss = f"loss {values['loss/loss']:.3f}" if "loss/loss" in values else "no finite loss"
        self.progress.advance(0, f"{loss}, {values['speed/tokens_per_second']:.0f} tokens/s")

    def _validate_if_due(self, last: bool) -> bool:
        """Validate if it is time, and return whether this validation is the best so far."""
        due = self.done % self.settings.validate_every == 0 or last
        if not self.task.validates or not due:
            return False
        with _evaluating(self.engine):
            self.validation = self.task.validate(self.engine, self.done)
            texts = self.task.samples(self.engine)
        improved = self.watch.convergence.see(self.done, self.validation)
        self.log.write(
            self.done, {f"validation/{name}": value for name, value in self.validation.items()}
        )
        self.log.write_texts(self.done, texts)
        self.meter.restart()
        return improved

    def _save_if_due(self, stop: StopRequest, improved: bool, last: bool) -> bool:
        """Save if it is time, and return whether a signal asked any rank to stop."""
        settings = self.settings
        overdue = time.monotonic() - self.saved_at > settings.save_minutes * 60
        asked, due = ranks.sum_over_ranks([float(stop.received is not None), float(overdue)])
        regular = any(
            every and self.done % every == 0 for every in (settings.save_every, settings.keep_every)
        )
        best = improved and _keeps_best(settings)
        if regular or best or asked > 0 or due > 0 or last:
            began = time.perf_counter()
            self._save()
            seconds = time.perf_counter() - began
            self.log.write(self.done, {"speed/checkpoint_seconds": seconds})
            self.saved_at = time.monotonic()
            self.meter.restart()
        return asked > 0

    def _save(self) -> None:
        state = self.task.state() | {"loop": self.watch.state()}
        best = self.watch.convergence.best_step if _keeps_best(self.settings) else None
        self.checkpoints.save(self.engine, self.done, state, best)


def _keeps_best(settings: Optimisation) -> bool:
    return settings.keep_best or settings.export == "best"


@contextlib.contextmanager
def _evaluating(engine: Engine) -> Iterator[None]:
    engine.eval()
    yield
    engine.train()


def _peak(settings: Optimisation) -> float:
    """Return the peak FLOP/s of one device, on which MFU is based."""
    if settings.peak_tflops is not None:
        return settings.peak_tflops * 1e12
    return peak_flops(ranks.device(), getattr(torch, resolve_dtype(settings.dtype)))


def _mix(*parts: int) -> int:
    """Hash small integers into one 63-bit seed (splitmix64's finaliser between them)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ part) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1
