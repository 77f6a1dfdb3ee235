"""Which units of a teacher matter most to its LM loss, and how leaving others out changes what its norms see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from pipeline.families import Family, Shape
from pipeline.families.units import RESIDUAL, Units
from pipeline.student.blocks import Sources

Batch = dict[str, torch.Tensor]
#: The units kept, by their numbers, ascending; int64 on the CPU.
Kept = dict[Units, torch.Tensor]


def most_important(
    teacher: PreTrainedModel,
    family: Family,
    student: Shape,
    sources: Sources,
    batches: Iterable[Batch],
) -> Kept:
    """Choose the units that a student of shape `student` keeps, wherever it is narrower than `teacher`.

    A unit's importance is the first-order estimate of how far the LM loss moves when all its weights become zero, |Σ w ∂L/∂w|, summed
    over `batches`: the Taylor criterion of Molchanov et al. 2019 (arXiv 1906.10771) with one gate on all weights of the unit. Michel
    et al. 2019 (arXiv 1905.10650) and MiniDisc (arXiv 2205.14570) have the gate on its output alone, which for an inner feature behind
    a ReLU is half of this. Only weights that `sources` uses count. Of equally important units the first ones are kept.

    batches: input_ids, attention_mask and labels on the teacher's device. Deterministic on one kind of machine.
    """
    own = family.shape(teacher.config)
    wanted = {name: getattr(student, name) for name in ("d_model", "num_heads", "d_ff")}
    cut = {name for name, count in wanted.items() if count < getattr(own, name)}
    if not cut:
        return {}
    parameters = dict(teacher.named_parameters(remove_duplicate=False))
    scores: dict[Units, torch.Tensor] = {}
    for batch in batches:
        teacher.zero_grad()
        model: Any = teacher
        # A GPU's fused attention adds gradients up in no fixed order, which would let a run begun again keep other units.
        with sdpa_kernel(SDPBackend.MATH):
            model(**batch, use_cache=False).loss.backward()
        change: dict[Units, torch.Tensor] = {}
        for name, made_of in sources.items():
            for source in made_of:
                weight = parameters.get(source)
                if weight is None or weight.grad is None:
                    continue
                product = weight.detach() * weight.grad
                for axis, units in enumerate(family.axes(name)):
                    if units is not None and units.dimension in cut:
                        others = [other for other in range(product.dim()) if other != axis]
                        along = product.sum(others) if others else product
                        along = along.reshape(getattr(own, units.dimension), -1).sum(1).double()
                        change[units] = change[units] + along if units in change else along
        for units, value in change.items():
            scores[units] = scores[units] + value.abs() if units in scores else value.abs()
    teacher.zero_grad()
    return {units: _largest(score, wanted[units.dimension]) for units, score in scores.items()}


@torch.no_grad()
def norm_factors(
    teacher: PreTrainedModel, family: Family, kept: torch.Tensor, batches: Iterable[Batch]
) -> dict[str, float]:
    """Return, by the name of each norm's weight, what to multiply it with once the residual stream holds the units `kept` alone.

    A norm divides by the root of its input's mean square (a layer norm: variance) over the features. Without features of below
    average size that mean rises, and all that is left comes out smaller; the factor, √(mean over the kept ÷ mean over all),
    measured over all positions of `batches`, gives it its size back. Where all others are zero it is exactly √(all ÷ kept).
    """
    norms = {
        name: teacher.get_submodule(name.removesuffix(".weight"))
        for name, _ in teacher.named_parameters()
        if name.endswith(".weight") and family.axes(name) == (RESIDUAL,)
    }
    squares = {name: torch.zeros(2, dtype=torch.float64) for name in norms}

    def measure(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            for place, features in enumerate(
                (inputs[0], inputs[0][..., kept.to(inputs[0].device)])
            ):
                if isinstance(module, nn.LayerNorm):
                    features = features - features.mean(-1, keepdim=True)
                squares[name][place] += features.double().square().mean(-1).sum().cpu()

        return hook

    handles = [module.register_forward_pre_hook(measure(name)) for name, module in norms.items()]
    for batch in batches:
        model: Any = teacher
        model(**batch, use_cache=False)
    for handle in handles:
        handle.remove()
    return {
        name: float((part / whole).sqrt()) if whole > 0 else 1.0
        for name, (whole, part) in squares.items()
    }


def _largest(score: torch.Tensor, count: int) -> torch.Tensor:
    return score.cpu().sort(descending=True, stable=True).indices[:count].sort().values
