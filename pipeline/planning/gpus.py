"""Memory of devices, and their speed in bfloat16."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import ConfigError


class Device(NamedTuple):
    #: Bytes.
    memory: float
    #: Dense bfloat16 products, floating-point operations a second, from the vendor's data sheet.
    peak_flops: float


#: By the user's name for it: GB of memory, and the name by which `training.peak` knows the device.
DEVICES: dict[str, tuple[float, str]] = {
    "a10": (24, "A10"),
    "a30": (24, "A30"),
    "a40": (48, "A40"),
    "a100-40": (40, "A100"),
    "a100-80": (80, "A100"),
    "b200": (180, "B200"),
    "h100": (80, "H100"),
    "h100-nvl": (94, "H100 NVL"),
    "h100-pcie": (80, "H100 PCIe"),
    "h200": (141, "H200"),
    "l4": (24, "L4"),
    "l40": (48, "L40"),
    "l40s": (48, "L40S"),
    "mi300x": (192, "MI300X"),
}


def device(name: str) -> Device:
    """Return the device of a name; raises ConfigError for one that is not known.

    `cpu` is for plans that are compared with a CPU: 1 TFLOP/s, any memory.
    """
    if name == "cpu":
        return Device(float("inf"), 1e12)
    if name not in DEVICES:
        raise ConfigError(f"--gpu {name}: known are {', '.join(DEVICES)}")
    import torch

    from pipeline.training.peak import known_peak

    memory, model = DEVICES[name]
    peak = known_peak(model, torch.bfloat16)
    assert peak is not None, model
    return Device(memory * 1e9, peak)
