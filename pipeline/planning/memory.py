"""Peak memory of one rank under a DeepSpeed configuration.

The states follow ZeRO (arXiv 1910.02054, section 3), with DeepSpeed's buffers as release 0.19 makes them: at the end of a backward
pass and in the optimizer's step the same weights, gradients and moments are there, but activations in the one and temporary copies
in the other, so that the larger of the two is the peak.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.planning.step import StepBytes


class RankMemory(NamedTuple):
    """Bytes on one rank's device."""

    weights: float
    gradients: float
    optimizer: float
    #: Buckets that gradients are reduced in.
    buckets: float
    teacher: float
    #: The rows of one optimizer step, all micro batches of it.
    batch: float
    #: Forward and backward pass at their highest, above all of the former.
    activations: float
    #: The optimizer's step, above the same.
    update: float

    @property
    def held(self) -> float:
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.buckets
            + self.teacher
            + self.batch
        )

    @property
    def peak(self) -> float:
        return self.held + max(self.activations, self.update)


def rank_memory(
    config: dict[str, Any], parameters: int, ranks: int, dtype: str, step: StepBytes, batch: float
) -> RankMemory:
    """config: the DeepSpeed JSON; parameters: the student's; dtype: what is computed in; batch: bytes of a step's rows on a rank."""
    zero = config.get("zero_optimization", {})
    stage, size = int(zero.get("stage", 0)), 4 if dtype == "float32" else 2
    offloaded = (
        "offload_optimizer" in zero and zero["offload_optimizer"].get("device", "none") != "none"
    )
    share = parameters / ranks
    bucket = size * float(zero.get("reduce_bucket_size", 5e8)) if stage >= 1 else 0.0
    if stage == 3:
        # Gathered weights stay until they are used again, up to this many; one rank's share is the whole.
        gathered = (
            min(parameters, float(zero.get("stage3_max_live_parameters", 1e9)))
            if ranks > 1
            else 0.0
        )
        weights, gradients = size * (share + gathered), size * share
        group = min(share, float(zero.get("sub_group_size", 1e9)))
    else:
        weights, gradients = (
            float(size * parameters),
            size * (share if stage == 2 else float(parameters)),
        )
        group = share if stage >= 1 else float(parameters)
    mine = share if stage >= 1 else float(parameters)
    # float32 master weights and Adam's two moments; then a float32 gradient and two temporaries of Adam's formula.
    optimizer, update = (0.0, 0.0) if offloaded else (12 * mine, 12 * group)
    return RankMemory(weights, gradients, optimizer, bucket, step.teacher, batch, step.peak, update)
