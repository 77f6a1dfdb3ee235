"""Numbers that are not finite: they are never saved, and the rows they come from are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline import ranks
from pipeline.errors import PipelineError
from pipeline.training.loader import Batch
from pipeline.training.order import Row
from pipeline.training.task import Engine, LossFunction


def is_finite(engine: Engine) -> bool:
    """Return whether the weights and the optimizer's moments are finite on every rank.

    Every rank must call it.
    """
    finite = all(
        bool(torch.isfinite(tensor).all())
        for tensor in _trained(engine)
        if tensor.is_floating_point()
    )
    return ranks.largest(int(not finite)) == 0


def _trained(engine: Engine) -> Iterator[torch.Tensor]:
    """Yield this rank's trained weights and the optimizer's moments."""
    # ZeRO trains flat float32 copies of this rank's share, the parameters of its inner optimizer.
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
    """Return the rows of a step whose loss, computed for each row alone, is not finite.

    Every rank must call it. engine: in evaluation mode. loss: the training loop's. batches: this
    rank's micro batches of the step; rank r has every world-th one, starting with r.
    """
    rank, world = ranks.rank(), ranks.world_size()
    bad = [0.0] * len(rows)
    for number, batch in enumerate(batches):
        micro = len(batch["labels"])
        for row in range(micro):
            parts = loss(
                engine, {name: tensor[row : row + 1] for name, tensor in batch.items()}, step
            )
            finite = all(bool(torch.isfinite(value).all()) for value in parts.values())
            bad[(number * world + rank) * micro + row] = float(not finite)
    return [row for row, count in zip(rows, ranks.sum_over_ranks(bad), strict=True) if count]


def not_finite(
    label: str, done: int, in_a_row: int, bad: list[Row], rows: list[Row], saved: Path | None
) -> PipelineError:
    """Return the error that ends a run after `in_a_row` skipped steps.

    rows: those of the last step. bad: the ones among them whose own loss is not finite.
    """
    cause = (
        "the loss of each of these rows alone is not finite"
        if bad
        else "the loss of each of its rows alone is finite"
    )
    names = ", ".join(f"{shard}:{row}" for shard, row in (bad or rows)[:8])
    weights = (
        f"finite weights are saved in {saved}"
        if saved
        else "its weights are not finite either and were not saved"
    )
    return PipelineError(
        f"{label}: the gradients of {in_a_row} steps in a row were not finite, "
        f"the last at step {done}; {cause} (shard:row {names}"
        f"{', …' * (len(bad or rows) > 8)}); {weights}: lower learning_rate, use dtype float32, "
        "or look at these rows; remove the checkpoints to start again"
    )
