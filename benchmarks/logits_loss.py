"""Logits KL and LM loss, forward and backward: ours against the plain form in the same run.

    python benchmarks/logits_loss.py [--quick] [--json OUT]

912 positions (8 x 114), vocabulary 32,128, width 768. `head`: from hidden states and both LM heads,
KL alone; `head_lm`: KL and LM loss; `logits`: KL from logits that exist. The plain form is two
products, .float(), log_softmax, kl_div and cross_entropy under autograd. Ratios are ours over
plain. `peak` is the peak of memory above the inputs. `extra` leaves out the gradients too, which
any form must return (of the head's weight 47 MiB in bf16 and 94 MiB in fp32). Where there is a GPU
the same follows on it, with the fused kernel as a third form: figures that end in `_cuda`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn import functional as F

from benchmarks import common
from pipeline.objectives import kernels
from pipeline.objectives.head import LossWeights, Predictor, head_divergence
from pipeline.objectives.logits import divergence

POSITIONS, VOCABULARY, WIDTH = 912, 32_128, 768


def prepare(form: str, case: str, dtype: torch.dtype, device: str = "cpu") -> Callable[[], float]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, VOCABULARY, (POSITIONS,), generator=generator).to(device)
    if case == "logits":
        s, t = (
            (torch.randn(POSITIONS, VOCABULARY, generator=generator)).to(device, dtype)
            for _ in range(2)
        )
        leaves = [s.requires_grad_()]
    else:
        h, th = (
            torch.randn(POSITIONS, WIDTH, generator=generator).to(device, dtype) for _ in range(2)
        )
        w, tw = (
            torch.randn(VOCABULARY, WIDTH, generator=generator).mul_(0.05).to(device, dtype)
            for _ in range(2)
        )
        leaves = [h.requires_grad_(), w.requires_grad_()]

    def plain() -> torch.Tensor:
        student, teacher = (s, t) if case == "logits" else (h @ w.t(), th @ tw.t())
        student = student.float()
        log_q, p = F.log_softmax(student, -1), F.softmax(teacher.float(), -1)
        loss = F.kl_div(log_q, p, reduction="batchmean")
        return loss + F.cross_entropy(student, labels) if case == "head_lm" else loss

    def ours() -> torch.Tensor:
        if case == "logits":
            return divergence(s, t)
        kl, lm = head_divergence(
            Predictor(h, w),
            Predictor(th, tw),
            labels=labels if case == "head_lm" else None,
            weights=LossWeights(1.0, 1.0),
        )
        return kl + lm

    def run() -> float:
        os.environ[kernels.SWITCH] = "0" if form == "chunked" else "1"
        for leaf in leaves:
            leaf.grad = None
        loss = plain() if form == "plain" else ours()
        loss.backward()
        return loss.item()

    return run


def gradient_bytes(case: str, dtype: torch.dtype) -> int:
    numbers = POSITIONS * VOCABULARY if case == "logits" else (POSITIONS + VOCABULARY) * WIDTH
    return numbers * dtype.itemsize


def main() -> None:
    args = common.parser(__doc__).parse_args()
    figures: dict[str, float] = {}
    goals: dict[str, tuple[str, float]] = {}
    for dtype, word in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        for case in ("head", "head_lm", "logits"):
            if args.quick and dtype == torch.float32 and case == "head_lm":
                continue
            label = f"{case}_{word}"
            runs = {form: prepare(form, case, dtype) for form in ("plain", "ours")}
            values = {form: run() for form, run in runs.items()}
            if abs(values["ours"] / values["plain"] - 1) > 0.01:
                raise SystemExit(f"the two forms disagree: {values}")
            seconds = common.best_times(runs, 2 if args.quick else 8)
            peak = {form: common.peak_extra_bytes(prepare, form, case, dtype) for form in runs}
            extra = {form: bytes_ - gradient_bytes(case, dtype) for form, bytes_ in peak.items()}
            for form in runs:
                figures[f"{label}_{form}_ms"] = seconds[form] * 1e3
                figures[f"{label}_{form}_peak_mib"] = peak[form] / 2**20
            figures[f"{label}_time_ratio"] = seconds["ours"] / seconds["plain"]
            figures[f"{label}_peak_ratio"] = peak["ours"] / peak["plain"]
            goals[f"{label}_time_ratio"] = ("<=", 1.1)
            figures[f"{label}_extra_ratio"] = extra["ours"] / extra["plain"]
            goals[f"{label}_extra_ratio"] = ("<=", 0.125)
            if torch.cuda.is_available():
                on_cuda = functools.partial(prepare, case=case, dtype=dtype, device="cuda")
                figures |= common.cuda_figures(
                    label, on_cuda, 20, torch.empty(1, dtype=dtype, device="cuda")
                )
    common.finish("logits_loss", figures, goals, args.json)


if __name__ == "__main__":
    main()
