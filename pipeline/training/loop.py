"""The training loop shared by distillation and fine-tuning: resume, step, log, validate, save, stop when asked.

What is trained on which rows with which loss is the caller's; what is here is everything that must not go wrong over weeks.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.profiler import record_function

from pipeline.console import Progress, say
from pipeline.errors import ConfigError, Preempted
from pipeline.hardware import resolve_dtype
from pipeline.recipe import Optimisation
from pipeline.training import distributed
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.convergence import Convergence
from pipeline.training.engine import (
    deepspeed_config,
    initialize,
    replace_weights,
    set_learning_rate,
)
from pipeline.training.finite import is_finite, not_finite, offending_rows
from pipeline.training.gradients import GradientNorms
from pipeline.training.loader import Batch, BatchSource, Loader
from pipeline.training.metrics import MetricsLog
from pipeline.training.order import SampleOrder
from pipeline.training.peak import peak_flops
from pipeline.training.preemption import StopRequest
from pipeline.training.schedule import learning_rate
from pipeline.training.trace import Trace
from pipeline.training.meter import Cost, Means, Window

#: (engine, batch, step) → named scalar tensors; "loss" is trained on, the others are logged as loss/<name>.
LossFn = Callable[[Any, Batch, int], dict[str, torch.Tensor]]
#: (engine, step) → named numbers, logged as validation/<name>. Every rank calls it.
ValidateFn = Callable[[Any, int], dict[str, float]]
#: engine → Markdown by name, shown in TensorBoard at each validation. Every rank calls it.
SampleFn = Callable[[Any], dict[str, str]]


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
    #: The DeepSpeed engine in evaluation mode, with the weights that settings.export chooses. Not to be trained any further.
    engine: Any
    #: What validation finds with these weights; empty when nothing validates.
    validation: dict[str, float]
    #: After how many steps training ended, before max_steps when settings.patience ran out, and which step's weights these are.
    steps: int
    exported: int


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
    sample: SampleFn | None = None,
    carried: Carried | None = None,
    order: SampleOrder | None = None,
    cost: Cost | None = None,
) -> Trained:
    """Train `model` for settings.max_steps optimiser steps, or until settings.patience runs out.

    model: its weights from `engine.load_model`. source: the rows; which of them make a batch is `order`'s (`SampleOrder`'s when absent).
    out: takes checkpoints/, tensorboard/, metrics.jsonl and profile/. identity: fingerprint that a checkpoint must bear to be resumed from.
    validate: its first number is the loss that patience and the best checkpoint go by. carried: state of the loss that checkpoints
    keep. cost: what TFLOP/s and MFU are computed from. Call `distributed.setup()` first. Raises Preempted after saving when a
    signal asked to stop, ConfigError when settings ask for a validation that is not there, and PipelineError when
    settings.max_skipped_steps steps in a row had gradients that are not finite.
    """
    keeps_best = settings.keep_best or settings.export == "best"
    if validate is None and (keeps_best or settings.patience is not None):
        raise ConfigError(
            f"{label}: patience, keep_best and export=best need validation rows, and there are none"
        )
    rank, world = distributed.rank(), distributed.world_size()
    checkpoints = Checkpoints(
        out / "checkpoints", identity, settings.keep_checkpoints, settings.keep_every
    )
    newest = checkpoints.newest()
    engine = initialize(model, settings, universal=newest is not None and newest.resharded)
    convergence = Convergence(settings.patience, settings.min_delta)
    norms = GradientNorms(
        settings.spike_factor, _spike_line(label) if rank == 0 else lambda *_: None
    )
    start = in_a_row = 0
    if newest is not None:
        checkpoints.load(engine, newest)
        start, own = newest.step, newest.state.get("loop", {})
        convergence.restore(own.get("convergence", {}))
        norms.restore(own.get("norms", {}))
        in_a_row = own.get("skipped_in_a_row", 0)
        if carried is not None:
            carried.restore(newest.state)
        if rank == 0:
            say(f"{label}: resuming after step {start}")

    def save(step: int) -> None:
        own = {
            "convergence": convergence.state(),
            "norms": norms.state(),
            "skipped_in_a_row": in_a_row,
        }
        state = carried.state() if carried is not None else {}
        checkpoints.save(
            engine, step, state | {"loop": own}, convergence.best_step if keeps_best else None
        )

    order = order or SampleOrder(source.shard_rows, settings.batch_size, seed)
    micro = deepspeed_config(settings)["train_micro_batch_size_per_gpu"]
    loader = Loader(
        source,
        order,
        start=start,
        stop=start if convergence.exhausted else settings.max_steps,
        rank=rank,
        world=world,
        micro=micro,
        device=distributed.device(),
    )
    window = Window(loader, cost, _peak(settings) if cost is not None else 1.0)
    validation: dict[str, float] | None = None
    saved_at = time.monotonic()
    skipped, done = engine.skipped_steps, start
    engine.train()
    with (
        StopRequest() as stop,
        MetricsLog(out, start, active=rank == 0) as log,
        Progress(label, settings.max_steps, "step", start=start, quiet=rank != 0) as progress,
        Trace(out / "profile" if settings.profile else None, settings.max_steps - start) as trace,
    ):
        for step, batches in loader:
            rate = learning_rate(settings, step)
            set_learning_rate(engine, rate)
            # Dropout depends on (seed, step, rank) alone: nothing to save, nothing to restore.
            torch.manual_seed(_mix(seed, step, rank))
            of_step = Means()
            for batch in batches:
                with record_function("forward"):
                    parts = loss(engine, batch, step)
                with record_function("backward"):
                    engine.backward(parts["loss"])
                with record_function("optimizer"):
                    engine.step()
                of_step.add(parts)
            done = step + 1
            if engine.skipped_steps > skipped:
                # DeepSpeed leaves weights and moments as they were when the gradient's norm is not finite, on every rank.
                skipped, in_a_row = engine.skipped_steps, in_a_row + 1
                if rank == 0:
                    say(
                        f"{label}: step {done} skipped, its gradient is not finite ({in_a_row} in a row)"
                    )
                if in_a_row >= settings.max_skipped_steps:
                    engine.eval()
                    rows = [row for part in order.micro_batches(step, micro) for row in part]
                    bad = offending_rows(engine, loss, step, batches, rows)
                    saved = is_finite(engine)
                    if saved:
                        save(done)
                    raise not_finite(
                        label, done, in_a_row, bad, rows, checkpoints.root if saved else None
                    )
            else:
                in_a_row = 0
                window.add(of_step, batches)
                norms.add(done, engine.get_global_grad_norm())
                if carried is not None and carried.follows_means:
                    carried.after_step(step, of_step.over_ranks(world))
            last = done == settings.max_steps
            if done % settings.log_every == 0 or last:
                norms.settle()
                values = window.close(world)
                values |= {
                    "train/learning_rate": rate,
                    "train/gradient_norm": _finite(float(engine.get_global_grad_norm() or 0.0)),
                    "train/gradient_norm_spikes": float(norms.spikes),
                    "train/skipped_steps": float(skipped),
                }
                log.write(done, values)
                loss_now = (
                    f"loss {values['loss/loss']:.3f}" if "loss/loss" in values else "no finite loss"
                )
                detail = f"{loss_now}, {values['speed/tokens_per_second']:.0f} tokens/s"
                progress.advance(0, detail)
            improved = False
            if validate is not None and (done % settings.validate_every == 0 or last):
                with _evaluating(engine):
                    validation = validate(engine, done)
                    texts = sample(engine) if sample is not None else {}
                improved = convergence.see(done, validation)
                log.write(done, {f"validation/{name}": value for name, value in validation.items()})
                log.write_texts(done, texts)
                window.restart()
            last = last or convergence.exhausted
            trace.step()
            progress.advance()
            overdue = time.monotonic() - saved_at > settings.save_minutes * 60
            asked, due = distributed.sum_over_ranks(
                [float(stop.received is not None), float(overdue)]
            )
            stopping = asked > 0
            regular = any(
                every and done % every == 0 for every in (settings.save_every, settings.keep_every)
            )
            if regular or (improved and keeps_best) or stopping or due > 0 or last:
                began = time.perf_counter()
                save(done)
                log.write(done, {"speed/checkpoint_seconds": time.perf_counter() - began})
                saved_at = time.monotonic()
                window.restart()
            if last:
                break
            if stopping:
                raise Preempted(
                    f"{label}: saved after step {done} on {stop.received or 'another rank’s signal'}"
                )
    if convergence.exhausted and rank == 0:
        say(
            f"{label}: stopped after step {done}; validations in a row without improvement: {settings.patience}"
        )
    engine.eval()
    exported = done
    if settings.export == "best" and convergence.best_step not in (None, done):
        exported = convergence.best_step
        replace_weights(engine.module, checkpoints.weights(exported) if rank == 0 else {})
    if validate is not None and (validation is None or exported != done):
        validation = validate(engine, exported)
    return Trained(engine, validation or {}, done, exported)


@contextlib.contextmanager
def _evaluating(engine: Any) -> Iterator[None]:
    engine.eval()
    yield
    engine.train()


def _peak(settings: Optimisation) -> float:
    if settings.peak_tflops is not None:
        return settings.peak_tflops * 1e12
    return peak_flops(distributed.device(), getattr(torch, resolve_dtype(settings.dtype)))


def _spike_line(label: str) -> Callable[[int, float, float], None]:
    return lambda step, norm, usual: say(
        f"{label}: the gradient norm of step {step} is {norm:.3g}, {norm / usual:.1f} × the median of the steps before"
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _mix(*parts: int) -> int:
    """Hash small integers into one 63-bit seed (splitmix64's finaliser between them)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ part) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1
