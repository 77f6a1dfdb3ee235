"""What this machine computes well, found without importing torch so that start-up checks stay quick."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def has_nvidia_gpu() -> bool:
    return (
        os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1") and Path("/proc/driver/nvidia/version").exists()
    )


@cache
def default_dtype() -> str:
    """`bfloat16` where matrix products in it are fast (any recent GPU, CPUs with AVX512-BF16 or AMX), else `float32`."""
    if has_nvidia_gpu():
        return "bfloat16"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def resolve_dtype(dtype: str) -> str:
    return default_dtype() if dtype == "auto" else dtype


def usable_cpus() -> int:
    """Cores this process may use: those it is bound to, and no more than its Slurm job has here where nothing binds it."""
    bound = len(os.sched_getaffinity(0))
    return min(bound, int(os.environ.get("SLURM_CPUS_ON_NODE") or bound))
