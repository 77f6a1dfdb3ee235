"""The units of a teacher that matter most to its LM loss, and factors for its norms without others.

A unit is a feature of the residual stream, a head, or an inner feature of a feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from pipeline.families import Family, Shape
from pipeline.families.units import RESIDUAL, Units
from pipeline.student.blocks import Sources

Batch = dict[str, torch.Tensor]
#: The units that stay, by their numbers, ascending; int64 on the CPU.
KeptUnits = dict[Units, torch.Tensor]

_CUT_DIMENSIONS = ("d_model", "num_heads", "d_ff")


def most_important(
    teacher: PreTrainedModel,
    family: Family,
    student: Shape,
    sources: Sources,
    batches: Iterable[Batch],
) -> KeptUnits:
    """Choose the units that a student keeps where it is narrower than `teacher`.

    A unit's importance is the first-order estimate of how far the LM loss moves if all its weights
    become zero, |Σ w ∂L/∂w|, summed over `batches`. This is the Taylor criterion of Molchanov et
    al. 2019 (arXiv 1906.10771), with one gate on all weights of the unit. Michel et al. 2019 (arXiv
    1905.10650) and MiniDisc (arXiv 2205.14570) have the gate on its output alone, which for an
    inner feature after a ReLU is half of this. Only weights in `sources` count. Of equally
    important units the first ones stay.

    batches: input_ids, attention_mask and labels on the teacher's device.
    The result is deterministic on one kind of machine.
    """
    shape = family.shape(teacher.config)
    counts = {
        name: count
        for name in _CUT_DIMENSIONS
        if (count := getattr(student, name)) < getattr(shape, name)
    }
    if not counts:
        return {}
    scores: dict[Units, torch.Tensor] = {}
    for batch in batches:
        teacher.zero_grad()
        model: Any = teacher
        # A GPU's fused attention adds gradients in no fixed order. A run that is started again
        # could then keep other units.
        with sdpa_kernel(SDPBackend.MATH):
            model(**batch, use_cache=False).loss.backward()
        for units, change in _loss_changes(teacher, family, sources, counts).items():
            scores[units] = scores[units] + change.abs() if units in scores else change.abs()
    teacher.zero_grad()
    return {units: _largest(score, counts[units.dimension]) for units, score in scores.items()}


@torch.no_grad()
def norm_factors(
    teacher: PreTrainedModel, family: Family, kept: torch.Tensor, batches: Iterable[Batch]
) -> dict[str, float]:
    """Return the factor for each norm's weight if the residual stream keeps the units `kept` alone.

    A norm divides by the root of its input's mean square (a layer norm: variance) over the
    features. Without features of below-average size that mean rises, and the output for the others
    becomes smaller. The factor, √(mean over the kept ÷ mean over all), restores its size; it is
    measured over all positions of `batches`. If all others are zero it is exactly √(all ÷ kept).

    Factors are by the name of the norm's weight.
    """
    norms = {
        name: teacher.get_submodule(name.removesuffix(".weight"))
        for name, _ in teacher.named_parameters()
        if name.endswith(".weight") and family.axes(name) == (RESIDUAL,)
    }
    # Sums of the mean squares over all features and over the kept ones.
    squares = {name: torch.zeros(2, dtype=torch.float64) for name in norms}

    def measure(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            stream = inputs[0]
            for index, features in enumerate((stream, stream[..., kept.to(stream.device)])):
                if isinstance(module, nn.LayerNorm):
                    features = features - features.mean(-1, keepdim=True)
                squares[name][index] += features.double().square().mean(-1).sum().cpu()

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


def _loss_changes(
    teacher: PreTrainedModel, family: Family, sources: Sources, cut: Mapping[str, int]
) -> dict[Units, torch.Tensor]:
    """Return Σ w ∂L/∂w of every unit of the dimensions in `cut`, from the gradients of one batch.

    Units are the student's: those of the weights that `sources` says are made from the teacher's.
    """
    shape = family.shape(teacher.config)
    parameters = dict(teacher.named_parameters(remove_duplicate=False))
    changes: dict[Units, torch.Tensor] = {}
    pairs = [(name, source) for name, made_of in sources.items() for source in made_of]
    for name, source in pairs:
        weight = parameters.get(source)
        if weight is None or weight.grad is None:
            continue
        product = weight.detach() * weight.grad
        for axis, units in enumerate(family.axes(name)):
            if units is None or units.dimension not in cut:
                continue
            other_axes = [other for other in range(product.dim()) if other != axis]
            along = product.sum(other_axes) if other_axes else product
            along = along.reshape(getattr(shape, units.dimension), -1).sum(1).double()
            changes[units] = changes[units] + along if units in changes else along
    return changes


def _largest(score: torch.Tensor, count: int) -> torch.Tensor:
    return score.cpu().sort(descending=True, stable=True).indices[:count].sort().values
