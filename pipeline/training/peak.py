"""Peak operations per second of a device, on which MFU is based."""

from __future__ import annotations

import re
import time

import torch

#: TFLOP/s of dense products in bfloat16 or float16 with float32 accumulation, by words of the
#: device's name, from the vendors' data sheets (without sparsity). A variant comes before the plain
#: name.
PEAKS: dict[tuple[str, ...], float] = {
    ("B200",): 2250.0,
    ("GB200",): 2500.0,
    ("H200",): 989.4,
    ("GH200",): 989.4,
    ("H100", "PCIe"): 756.0,
    ("H100", "NVL"): 835.5,
    ("H100",): 989.4,
    ("H800",): 989.4,
    ("A100",): 312.0,
    ("A800",): 312.0,
    ("A40",): 149.7,
    ("A30",): 165.0,
    ("A10",): 125.0,
    ("L40S",): 362.05,
    ("L40",): 181.05,
    ("L4",): 121.0,
    ("MI300X",): 1307.4,
}
#: Devices without bfloat16 in their tensor cores.
FLOAT16_ONLY: dict[tuple[str, ...], float] = {("V100",): 125.0, ("T4",): 65.0}


def known_peak(name: str, dtype: torch.dtype) -> float | None:
    """Return the FLOP/s of the device named `name` ("NVIDIA H100 80GB HBM3"), None if unknown.

    Slices of a device (MIG) and float32, where much depends on settings, are not in the table.
    """
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    tables = {torch.bfloat16: PEAKS, torch.float16: PEAKS | FLOAT16_ONLY}
    if "MIG" in words:
        return None
    peaks = [peak for key, peak in tables.get(dtype, {}).items() if words.issuperset(key)]
    return peaks[0] * 1e12 if peaks else None


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure FLOP/s as the best of a few square matrix products; takes well below a second."""
    size = 8192 if device.type == "cuda" else 1024
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(size, size, generator=generator).to(device, dtype)
    shortest = float("inf")
    for _ in range(4):
        _wait(device)
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        _wait(device)
        shortest = min(shortest, time.perf_counter() - began)
    return 2 * size**3 / shortest


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of `device` in `dtype`, from the table or else measured.

    On a CPU it is measured with as many threads as training uses.
    """
    known = known_peak(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
    return known or measured_peak(device, dtype)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
