"""Hidden states as int8, with one scale per group of neighbouring dimensions and with outliers.

A few dimensions of T5's residual stream are about 1000 times larger than the rest. Other large
language models have them too: LLM.int8(), arXiv 2208.07339, counts up to 7. With one scale per row
they set the step of all dimensions, and the rest is rounded to zero. With one scale per group this
still happens to the neighbours in their group. The largest few numbers of each row, the outliers,
are therefore stored separately in bfloat16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ArtifactError, CorruptArtifact

GROUP_SIZE, OUTLIERS = 64, 8
_LARGEST, _OUTLIER = 127, -128
#: bfloat16's smallest normal number: smaller ones are zero on hardware that flushes them.
_TINY = torch.finfo(torch.bfloat16).tiny


class Quantised(NamedTuple):
    """Rows of d numbers in d + 2 ceil(d / group_size) + 2 outliers bytes."""

    #: (..., d) int8: multiples of the group's scale, -127 … 127; -128 marks an outlier.
    values: Tensor
    #: (..., ceil(d / group_size)) bfloat16.
    scales: Tensor
    #: (..., outliers) bfloat16: the outliers, by dimension.
    outliers: Tensor


def quantise(states: Tensor, group_size: int = GROUP_SIZE, outliers: int = OUTLIERS) -> Quantised:
    """Quantise the states of each row to int8, except the largest `outliers` numbers.

    states: (..., d) of any float dtype up to float32. Every `group_size` dimensions are a group;
    the last one may be shorter. The scale is the group's largest magnitude / 127, rounded up to
    bfloat16, so nothing clips. Each number is off by at most half its scale, that is by 0.4% of the
    largest magnitude left in its group. Outliers are rounded to bfloat16.
    Raises ArtifactError when a state is not finite. Raises ValueError for a group size below 1 or
    outliers outside 0 … d.
    """
    width = states.shape[-1]
    if group_size < 1 or not 0 <= outliers <= width:
        raise ValueError(
            f"group_size {group_size} must be 1 or more, and outliers {outliers} within "
            f"0 to {width}"
        )
    wide = states.float()
    if not wide.isfinite().all():
        raise ArtifactError(
            "the teacher's hidden states are not finite: check its weights, and use bfloat16 or "
            "float32 as teacher.dtype"
        )
    dimensions = wide.abs().topk(outliers, dim=-1).indices.sort(dim=-1).values
    groups = _grouped(wide.scatter(-1, dimensions, 0.0), group_size)
    # Adding 0xFFFF, then clearing the low 16 bits, rounds a positive float32 up to bfloat16.
    bits = (groups.abs().amax(dim=-1, keepdim=True) / _LARGEST).clamp_(min=_TINY).view(torch.int32)
    scales = ((bits + 0xFFFF) & ~0xFFFF).view(torch.float32)
    values = (groups / scales).round_().to(torch.int8).flatten(-2)[..., :width]
    largest = torch.finfo(torch.bfloat16).max
    stored = wide.gather(-1, dimensions).clamp_(-largest, largest).to(torch.bfloat16)
    return Quantised(
        values.scatter(-1, dimensions, _OUTLIER), scales.squeeze(-1).to(torch.bfloat16), stored
    )


def dequantise(quantised: Quantised, dtype: torch.dtype, group_size: int = GROUP_SIZE) -> Tensor:
    """Undo `quantise`: return (..., d) in `dtype`, finite, multiplied in float32 (exactly).

    Raises ValueError when the scales do not fit values and group size. Raises CorruptArtifact when
    the outliers do not fit.
    """
    values, scales, outliers = quantised
    width = values.shape[-1]
    if scales.shape != (*values.shape[:-1], -(-width // group_size)):
        raise ValueError(
            f"scales {tuple(scales.shape)} do not fit values {tuple(values.shape)} "
            f"in groups of {group_size}"
        )
    groups = _grouped(values.float(), group_size).mul_(scales.float().unsqueeze(-1))
    # A scale that was rounded up can push a value beyond the dtype's range.
    largest = torch.finfo(dtype).max
    states = groups.clamp_(-largest, largest).flatten(-2)[..., :width].to(dtype).contiguous()
    positions = (values.reshape(-1) == _OUTLIER).nonzero().squeeze(1)
    if len(positions) != outliers.numel():
        raise CorruptArtifact(
            f"{len(positions)} states are marked as outliers, but {outliers.numel()} are stored; "
            "rebuild the shard"
        )
    states.view(-1)[positions] = outliers.to(dtype).reshape(-1)
    return states


def _grouped(states: Tensor, group_size: int) -> Tensor:
    """Copy (..., d) to (..., groups, group_size), with zeros at the end."""
    missing = -states.shape[-1] % group_size
    padded = torch.nn.functional.pad(states, (0, missing)) if missing else states.clone()
    return padded.unflatten(-1, (-1, group_size))
