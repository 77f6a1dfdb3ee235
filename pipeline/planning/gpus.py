"""What a plan assumes of a device: its memory and how many operations a second it can do in bfloat16."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import ConfigError


class Device(NamedTuple):
    #: Bytes.
    memory: float
    #: Dense bfloat16 products, floating-point operations a second, from the vendor's data sheet.
    peak_flops: float


DEVICES: dict[str, Device] = {
    "a10": Device(24e9, 125e12),
    "a30": Device(24e9, 165e12),
    "a40": Device(48e9, 149.7e12),
    "a100-40": Device(40e9, 312e12),
    "a100-80": Device(80e9, 312e12),
    "b200": Device(180e9, 2250e12),
    "h100": Device(80e9, 989.4e12),
    "h100-nvl": Device(94e9, 835.5e12),
    "h100-pcie": Device(80e9, 756e12),
    "h200": Device(141e9, 989.4e12),
    "l4": Device(24e9, 121e12),
    "l40": Device(48e9, 181.05e12),
    "l40s": Device(48e9, 362.05e12),
    "mi300x": Device(192e9, 1307.4e12),
}
#: Not on a data sheet: the memory of a process on a CPU, for plans that are compared with one.
CPU = Device(float("inf"), 1e12)


def device(name: str) -> Device:
    if name == "cpu":
        return CPU
    if name not in DEVICES:
        raise ConfigError(f"--gpu {name}: known are {', '.join(DEVICES)}")
    return DEVICES[name]
