"""The peak of a device, by its name or measured."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.peak import known_peak, measured_peak


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA GeForce RTX 2080", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_the_peak_of_a_device_by_its_name(name: str, tflops: float | None) -> None:
    assert known_peak(name, torch.bfloat16) == (tflops and tflops * 1e12)
    assert known_peak(name, torch.float32) is None


def test_the_measured_peak_is_what_a_large_product_reaches() -> None:
    assert 1e9 < measured_peak(torch.device("cpu"), torch.float32) < 1e14
    assert known_peak("Tesla V100-SXM2-16GB", torch.float16) == 125e12
