"""The fused kernels, each file of tests/kernels/ in a process of its own.

Triton decides at its import whether kernels are interpreted, for the whole process. Set for all
tests, TRITON_INTERPRET would send the other tests' losses through the interpreter, too. So nothing
here may import Triton.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[3]


def run(name: str, tmp_path: Path, **environment: str) -> None:
    pytest.importorskip("triton", reason="Triton is not installed; its wheels are for Linux alone")
    settings = {
        k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "MINIEND_TRITON")
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "error",
            f"tests/kernels/{name}.py",
        ],
        cwd=REPOSITORY,
        env=settings | environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_kernels_agree_with_float64(tmp_path: Path) -> None:
    """On the GPU where there is one, else in Triton's interpreter."""
    run("agreement", tmp_path, **({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}))


@pytest.mark.slow
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """Down to machine code, which needs no GPU: the compiler accepts less than the interpreter."""
    run("compilation", tmp_path)
