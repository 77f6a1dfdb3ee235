"""What this machine computes well, found without importing torch so that start-up checks stay quick."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path


@cache
def has_nvidia_gpu() -> bool:
    return (
        os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")
        and Path("/proc/driver/nvidia/version").exists()
    )


@cache
def default_dtype() -> str:
    """`bfloat16` where matrix products in it are fast (any recent GPU, CPUs with AVX512-BF16 or AMX), else `float32`."""
    return "bfloat16" if has_nvidia_gpu() else cpu_dtype()


@cache
def cpu_dtype() -> str:
    """`default_dtype` for work on the CPU, whether or not there is a GPU."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def resolve_dtype(dtype: str) -> str:
    return default_dtype() if dtype == "auto" else dtype


def device_name(device: str) -> str:
    """What computes, in words: the GPU's name, or the processor's with the threads torch uses. device: "cuda" or "cpu"."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{named[0] if named else platform.machine()}, {threads} thread{'' if threads == 1 else 's'}"


def usable_cpus() -> int:
    """Cores this process may use: those it is bound to, and no more than its Slurm job has here where nothing binds it."""
    bound = len(os.sched_getaffinity(0))
    return min(bound, int(os.environ.get("SLURM_CPUS_ON_NODE") or bound))
