"""Fused Triton kernels for CUDA, behind the functions of `relations`, `logits` and `head`.

    online      running softmax statistics of two rows, and the KL between them in the same pass
    relations   the KL of relations and its gradients; no score ever leaves the chip
    rows        the divergences of `formulas` on rows of logits, and their gradients

The PyTorch forms are the reference and the fallback. This module decides between the two and
imports neither Triton nor a kernel. Callers import a kernel only after `usable` has said yes.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings

import torch
from torch import Tensor

#: The environment variable that, set to 0, keeps every loss on its PyTorch form.
SWITCH = "MINIEND_TRITON"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: bf16 products need Ampere or later.
CAPABILITY = (8, 0)


def usable(*tensors: Tensor) -> bool:
    """Return whether the kernels take these tensors.

    They must be fp32, bf16 or fp16 and on one NVIDIA GPU of compute capability 8.0 or later, where
    Triton works. For tests they may be on the CPU with TRITON_INTERPRET=1, which must then be set
    before anything imports Triton.
    """
    device = tensors[0].device
    if os.environ.get(SWITCH) == "0" or any(
        x.dtype not in DTYPES or x.device != device for x in tensors
    ):
        return False
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return device.type == "cuda" and _works(device)


@functools.cache
def _works(device: torch.device) -> bool:
    """Return whether Triton is installed and can compile and run a kernel on this GPU.

    A warning says why it cannot.
    """
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < CAPABILITY:
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        from pipeline.objectives.kernels.online import double

        x = torch.ones(1, device=device)
        with torch.cuda.device(device):
            double[(1,)](x)
        return x.item() == 2.0
    except Exception as error:
        # No compiler, a read-only cache directory, a driver too old: the losses work without it.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"Triton does not work on {device} ({reason}): the losses take their PyTorch form, "
            f"which is slower; set {SWITCH}=0 to say that this is wanted",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
