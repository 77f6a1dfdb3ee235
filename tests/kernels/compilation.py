"""The kernels compiled to machine code for GPUs that need not be here.

Run by tests/unit/objectives/test_kernels.py. The functions that launch them run as they do in
training, but each launch is handed to the compiler with the types, constants and alignments that it
was made with. `ptxas`, which the Triton wheel brings, decides in the end.
"""

from __future__ import annotations

import inspect

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.objectives.divergence import Divergence, Kind
from pipeline.objectives.kernels import relations, rows
from tests.unit.objectives.test_logits import KINDS

#: Bytes of shared memory that a block may take on the smallest GPU of each capability (CUDA C++
#: Programming Guide, table of technical specifications): 99 KiB on 8.6, as on consumer Ada; 227 KiB
#: on Hopper.
SHARED = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int8: "*i8",
}


class Compiler:
    """Stands where a kernel stands; compiles what is launched instead of launching it."""

    def __init__(self, kernel: triton.JITFunction, capability: int) -> None:
        self.kernel, self.capability = kernel, capability
        self.compiled: list[triton.compiler.CompiledKernel] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Compiler:
        return self

    def __call__(self, *args: object, **kwargs: object) -> None:
        options = {k: kwargs.pop(k) for k in ("num_warps", "num_stages") if k in kwargs}
        arguments = inspect.signature(self.kernel.fn).bind(*args, **kwargs).arguments
        constants = {
            name
            for name, p in zip(self.kernel.arg_names, self.kernel.params, strict=True)
            if p.is_constexpr
        }
        signature, values, attributes = {}, {}, {}
        for i, (name, x) in enumerate(arguments.items()):
            # Triton makes a constant of any 1.
            if name in constants or (isinstance(x, int) and x == 1):
                signature[name], values[(i,)] = "constexpr", x
            elif isinstance(x, Tensor):
                signature[name], attributes[(i,)] = TYPES[x.dtype], [["tt.divisibility", 16]]
            else:
                signature[name] = "fp32" if isinstance(x, float) else "i32"
                if isinstance(x, int) and x % 16 == 0:
                    attributes[(i,)] = [["tt.divisibility", 16]]
        source = ASTSource(self.kernel, signature, values, attributes)
        target = GPUTarget("cuda", self.capability, 32)
        self.compiled.append(triton.compile(source, target=target, options=options))


def check(compiler: Compiler, launches: int) -> None:
    assert len(compiler.compiled) == launches
    for kernel in compiler.compiled:
        assert len(kernel.asm["cubin"]) > 1000
        assert kernel.metadata.shared <= SHARED[compiler.capability]


@pytest.mark.parametrize(
    ("capability", "dtype", "heads", "lengths", "causal"),
    [
        (80, torch.bfloat16, (16, 16), (512, 512), True),
        (90, torch.bfloat16, (12, 20), (114, 512), False),
        (86, torch.float16, (64, 64), (512, 512), True),
        (90, torch.float32, (64, 64), (512, 512), False),
        (86, torch.float32, (256, 256), (512, 512), True),
        (86, torch.bfloat16, (16, 16), (1, 1), False),
    ],
)
def test_relations(
    monkeypatch: pytest.MonkeyPatch,
    capability: int,
    dtype: torch.dtype,
    heads: tuple[int, int],
    lengths: tuple[int, int],
    causal: bool,
) -> None:
    compilers = [Compiler(k, capability) for k in (relations._rows, relations._columns)]
    monkeypatch.setattr(relations, "_rows", compilers[0])
    monkeypatch.setattr(relations, "_columns", compilers[1])
    # These tensors are on the CPU; the GPU's would be multiplied as they are.
    monkeypatch.setattr(
        relations,
        "_product_dtype",
        lambda x: tl.bfloat16 if x.dtype == torch.bfloat16 else tl.float32,
    )
    (sa, sb), (ta, tb) = (
        [torch.empty(2, n, 4 * head, dtype=dtype) for n in lengths] for head in heads
    )
    weight, keys = torch.empty(2, lengths[0]), torch.ones(2, lengths[1], dtype=torch.bool)
    for track, mask in ((True, keys), (False, None)):
        relations.value_and_gradients(sa, sb, ta, tb, weight, mask, 4, causal, track)
    check(compilers[0], 2)
    check(compilers[1], 1)


@pytest.mark.parametrize(
    ("kind", "capability", "dtype"),
    [(kind, 80, torch.bfloat16) for kind in KINDS] + [("forward_kl", 90, torch.float32)],
)
def test_rows(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, capability: int, dtype: torch.dtype
) -> None:
    compilers = [Compiler(k, capability) for k in (rows._values, rows._gradient)]
    monkeypatch.setattr(rows, "_values", compilers[0])
    monkeypatch.setattr(rows, "_gradient", compilers[1])
    settings = Divergence(kind, 0.1, 2.0)
    s, t = torch.empty(4, 32_128, dtype=dtype), torch.empty(4, 32_128, dtype=dtype)
    for index, share in ((torch.arange(3), 0.5), (None, 1.0)):
        n = 4 if index is None else 3
        _, stats = rows.values(settings, s, t, index, share=share)
        rows.gradient_(s, settings, s, t, stats, torch.empty(n), index, share=share)
    check(compilers[0], 2)
    check(compilers[1], 2)
