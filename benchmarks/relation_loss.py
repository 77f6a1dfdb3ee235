"""Relation loss, forward and backward: ours against the plain form in the same run.

    python benchmarks/relation_loss.py [--quick] [--json OUT]

Ours is `pipeline.objectives.relations`. Batch 4, length 512, width 768, 48 relation heads. The
plain form is what one would write first: batched products, log_softmax and softmax in fp32, kl_div,
autograd. Ratios are ours over plain; memory is the peak above the inputs. Where there is a GPU the
same follows on it, with the fused kernel as a third form: figures that end in `_cuda`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import common
from pipeline.objectives import kernels
from pipeline.objectives.relations import relation_loss

BATCH, LENGTH, WIDTH, HEADS = 4, 512, 768, 48


def plain(teacher: Tensor, student: Tensor, causal: bool) -> Tensor:
    def scores(x: Tensor) -> Tensor:
        x = x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        result = (x @ x.transpose(2, 3)).float() / (WIDTH // HEADS) ** 0.5
        if causal:
            result = result.masked_fill(
                torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=x.device).triu(1), -1e9
            )
        return result

    log_q, p = F.log_softmax(scores(student), -1), F.softmax(scores(teacher), -1)
    return F.kl_div(log_q, p, reduction="none").sum(-1).mean()


def prepare(
    form: str, dtype: torch.dtype, causal: bool, device: str = "cpu"
) -> Callable[[], float]:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (
        torch.randn(BATCH, LENGTH, WIDTH, generator=generator).to(device, dtype) for _ in range(2)
    )
    student.requires_grad_()

    def run() -> float:
        os.environ[kernels.SWITCH] = "0" if form == "chunked" else "1"
        student.grad = None
        if form == "plain":
            loss = plain(teacher, student, causal)
        else:
            loss = relation_loss(
                (teacher, teacher), (student, student), relation_heads=HEADS, causal=causal
            )
        loss.backward()
        return loss.item()

    return run


def main() -> None:
    args = common.parser(__doc__).parse_args()
    figures: dict[str, float] = {}
    goals: dict[str, tuple[str, float]] = {}
    for dtype, word in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        for causal in (False, True):
            if args.quick and causal and dtype == torch.float32:
                continue
            label = f"{word}_causal" if causal else word
            runs = {form: prepare(form, dtype, causal) for form in ("plain", "ours")}
            values = {form: run() for form, run in runs.items()}
            if abs(values["ours"] / values["plain"] - 1) > 0.01:
                raise SystemExit(f"the two forms disagree: {values}")
            seconds = common.best_times(runs, 3 if args.quick else 10)
            peak = {form: common.peak_extra_bytes(prepare, form, dtype, causal) for form in runs}
            for form in runs:
                figures[f"{label}_{form}_ms"] = seconds[form] * 1e3
                figures[f"{label}_{form}_peak_mib"] = peak[form] / 2**20
            figures[f"{label}_time_ratio"] = seconds["ours"] / seconds["plain"]
            figures[f"{label}_peak_ratio"] = peak["ours"] / peak["plain"]
            goals[f"{label}_time_ratio"] = ("<=", 1.1)
            goals[f"{label}_peak_ratio"] = ("<=", 0.125)
            if torch.cuda.is_available():
                on_cuda = functools.partial(prepare, dtype=dtype, causal=causal, device="cuda")
                figures |= common.cuda_figures(
                    label, on_cuda, 20, torch.empty(1, dtype=dtype, device="cuda")
                )
    common.finish("relation_loss", figures, goals, args.json)


if __name__ == "__main__":
    main()
