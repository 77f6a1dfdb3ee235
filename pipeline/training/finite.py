"""Numbers that are not finite: keeping them off the disk, and naming the rows they come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.errors import PipelineError
from pipeline.training import distributed
from pipeline.training.loader import Batch
from pipeline.training.order import Row
from pipeline.training.task import Engine, LossFunction


def is_finite(engine: Engine) -> bool:
    """Whether the weights and the optimizer's moments of every rank are finite; every rank must call it."""
    sound = all(
        bool(torch.isfinite(tensor).all())
        for tensor in _trained(engine)
        if tensor.is_floating_point()
    )
    return distributed.largest(int(not sound)) == 0


def _trained(engine: Engine) -> Iterator[torch.Tensor]:
    # ZeRO trains float32 copies of this rank's share: flat ones, which its inner optimizer takes for parameters.
    outer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
        yield from (tensor for tensor in getattr(outer, name, ()) if tensor is not None)
    for state in getattr(outer, "optimizer", outer).state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


@torch.no_grad()
def offending_rows(
    engine: Engine,
    loss: LossFunction,
    step: int,
    batches: list[Batch],
    rows: list[Row],
) -> list[Row]:
    """Return those of a step's `rows` that have, each alone, a loss which is not finite; every rank must call it.

    engine: in evaluation mode; loss: the training loop's; batches: this rank's micro batches of the step, of which rank r has
    every world-th, counted from r.
    """
    rank, world = distributed.rank(), distributed.world_size()
    bad = [0.0] * len(rows)
    for number, batch in enumerate(batches):
        micro = len(batch["labels"])
        for row in range(micro):
            parts = loss(
                engine, {name: tensor[row : row + 1] for name, tensor in batch.items()}, step
            )
            finite = all(bool(torch.isfinite(value).all()) for value in parts.values())
            bad[(number * world + rank) * micro + row] = float(not finite)
    return [row for row, count in zip(rows, distributed.sum_over_ranks(bad), strict=True) if count]


def not_finite(
    label: str, done: int, in_a_row: int, bad: list[Row], rows: list[Row], saved: Path | None
) -> PipelineError:
    """The error that ends a run after `in_a_row` steps were skipped; bad: of `rows` those found to be at fault."""
    whose = (
        "the loss of each of these rows alone is not finite"
        if bad
        else "the loss of each of its rows alone is finite"
    )
    named = ", ".join(f"{shard}:{row}" for shard, row in (bad or rows)[:8])
    kept = (
        f"finite weights are saved in {saved}"
        if saved
        else "nor are its weights, which were not saved"
    )
    return PipelineError(
        f"{label}: the gradients of {in_a_row} steps in a row were not finite, the last at step {done}; {whose} (shard:row {named}"
        f"{', …' * (len(bad or rows) > 8)}); {kept}: lower learning_rate, use dtype float32, or look at these rows; remove the "
        "checkpoints to begin anew"
    )
