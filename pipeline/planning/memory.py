"""Peak memory of one rank under a DeepSpeed configuration.

The states follow ZeRO (arXiv 1910.02054, section 3), with the buffers of DeepSpeed 0.19. Weights,
gradients and moments are the same at the end of a backward pass and in the optimizer's step. The
first holds activations as well, the second temporary copies: the larger of the two is the peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.planning.step import StepBytes


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank's device."""

    weights: float
    gradients: float
    optimizer: float
    #: Buckets in which gradients are reduced.
    buckets: float
    #: Weights of the teacher's side.
    teacher: float
    #: The rows of one optimizer step, all micro batches of it.
    batch: float
    #: Forward and backward pass at their highest, on top of everything before.
    activations: float
    #: The optimizer's step, on top of the same.
    update: float

    @property
    def held(self) -> float:
        """Bytes that are there all the time."""
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
    """Return the memory of one rank.

    config: the DeepSpeed JSON.
    parameters: the student's.
    dtype: what is computed in.
    batch: bytes of one step's rows on a rank.
    """
    zero = config.get("zero_optimization", {})
    stage, size = int(zero.get("stage", 0)), 4 if dtype == "float32" else 2
    share = parameters / ranks
    bucket = size * float(zero.get("reduce_bucket_size", 5e8)) if stage >= 1 else 0.0
    if stage == 3:
        # Gathered weights stay until they are used again, up to this many. With one rank, its share
        # is the whole.
        live = float(zero.get("stage3_max_live_parameters", 1e9))
        gathered = min(parameters, live) if ranks > 1 else 0.0
        weights, gradients = size * (share + gathered), size * share
        group = min(share, float(zero.get("sub_group_size", 1e9)))
    else:
        weights = float(size * parameters)
        gradients = size * (share if stage == 2 else float(parameters))
        group = share if stage >= 1 else float(parameters)
    optimizer, update = 0.0, 0.0
    if zero.get("offload_optimizer", {}).get("device", "none") == "none":
        # float32 master weights and Adam's two moments. The update takes a float32 gradient and two
        # temporaries of Adam's formula.
        optimizer = 12 * (share if stage >= 1 else float(parameters))
        update = 12 * group
    return RankMemory(weights, gradients, optimizer, bucket, step.teacher, batch, step.peak, update)
