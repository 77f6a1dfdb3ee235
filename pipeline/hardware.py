"""Facts of this machine: dtypes it computes fast, its device's name, its usable cores.

Nothing here imports torch before it must, so that start-up checks stay quick.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path


@cache
def has_nvidia_gpu() -> bool:
    """Return True if the driver is loaded and CUDA_VISIBLE_DEVICES does not hide every GPU."""
    return (
        os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")
        and Path("/proc/driver/nvidia/version").exists()
    )


@cache
def default_dtype() -> str:
    """Return `bfloat16` where its matrix products are fast, else `float32`.

    They are fast on any recent GPU and on CPUs with AVX512-BF16 or AMX.
    """
    return "bfloat16" if has_nvidia_gpu() else cpu_dtype()


@cache
def cpu_dtype() -> str:
    """Return `default_dtype` for work on the CPU, with or without a GPU in the machine."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def resolve_dtype(dtype: str) -> str:
    """Return `dtype`, with `auto` replaced by `default_dtype()`."""
    return default_dtype() if dtype == "auto" else dtype


def device_name(device: str) -> str:
    """Return the GPU's name, or the processor's with the number of threads that torch uses.

    device: "cuda" or "cpu".
    """
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    threads = torch.get_num_threads()
    return f"{processor}, {threads} thread{'' if threads == 1 else 's'}"


def usable_cpus() -> int:
    """Return the number of cores that this process may use.

    These are the cores it is bound to, and no more than its Slurm job has on this node: some sites
    do not bind jobs to cores.
    """
    bound = len(os.sched_getaffinity(0))
    return min(bound, int(os.environ.get("SLURM_CPUS_ON_NODE") or bound))
