"""Assumptions of a plan: facts that it cannot find out."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.hardware import resolve_dtype
from pipeline.planning.gpus import device


@dataclass(frozen=True)
class PlanAssumptions:
    gpu: str
    gpus: int
    #: Share of the device's peak that training and caching reach.
    mfu: float
    #: Bytes available for caches.
    disk: float
    #: Of one device, in operations a second.
    peak_flops: float
    #: Of one device, in bytes.
    device_memory: float

    @classmethod
    def of(cls, gpu: str, gpus: int, mfu: float, disk: float) -> PlanAssumptions:
        """Raise ConfigError for a GPU that is not known."""
        known = device(gpu)
        return cls(gpu, gpus, mfu, disk, known.peak_flops, known.memory)

    @property
    def operations_per_second(self) -> float:
        """The operations that one device reaches."""
        return self.peak_flops * self.mfu

    def hours(self, operations: float) -> float:
        """Return the GPU-hours that the operations take."""
        return operations / self.operations_per_second / 3600

    def dtype(self, asked: str) -> str:
        """Resolve `auto` for the planned devices, not for this machine."""
        if asked != "auto":
            return asked
        return resolve_dtype("auto") if self.gpu == "cpu" else "bfloat16"
