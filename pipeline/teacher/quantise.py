"""Hidden states as int8: one scale a group of neighbouring dimensions, and the largest few numbers of a row kept apart.

A few dimensions of T5's residual stream are some 1000 times larger than the rest (so are those of other large language
models: LLM.int8(), arXiv 2208.07339, counts up to 7). With one scale a row they decide the step of all dimensions, and the rest
is rounded to zero. With one a group they still do that to the neighbours they share a group with. Kept apart in bfloat16,
they do it to none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ArtifactError, CorruptArtifact

GROUP_SIZE, OUTLIERS = 64, 8
_LARGEST, _APART = 127, -128
#: bfloat16's smallest normal number: smaller ones are zero on hardware that flushes them.
_TINY = torch.finfo(torch.bfloat16).tiny


class Quantised(NamedTuple):
    """Rows of d numbers in d + 2 ceil(d / group_size) + 2 outliers bytes."""

    #: (..., d) int8: multiples of the group's scale, -127 … 127; -128 where the number is kept apart.
    values: Tensor
    #: (..., ceil(d / group_size)) bfloat16.
    scales: Tensor
    #: (..., outliers) bfloat16: the numbers kept apart, by dimension.
    outliers: Tensor


def quantise(states: Tensor, group_size: int = GROUP_SIZE, outliers: int = OUTLIERS) -> Quantised:
    """Keep the largest `outliers` numbers of each row apart and round the others to multiples of their group's scale.

    states: (..., d) of any float dtype up to float32; every `group_size` dimensions are a group, the last may be shorter. The
    scale is the group's largest magnitude / 127 rounded up to bfloat16, so nothing clips: each number is off by at most half
    its scale, that is by 0.4% of the largest magnitude left in its group; those kept apart are rounded to bfloat16.
    Raises ArtifactError when a state is not finite; ValueError for a group size below 1 or outliers outside 0 … d.
    """
    width = states.shape[-1]
    if group_size < 1 or not 0 <= outliers <= width:
        raise ValueError(
            f"group_size {group_size} must be 1 or more, and outliers {outliers} within 0 to {width}"
        )
    wide = states.float()
    if not wide.isfinite().all():
        raise ArtifactError(
            "the teacher's hidden states are not finite: check its weights, and use bfloat16 or float32 as teacher.dtype"
        )
    where = wide.abs().topk(outliers, dim=-1).indices.sort(dim=-1).values
    groups = _grouped(wide.scatter(-1, where, 0.0), group_size)
    # Adding all but the kept bits, then cutting them off, rounds a positive float up to bfloat16.
    bits = (groups.abs().amax(dim=-1, keepdim=True) / _LARGEST).clamp_(min=_TINY).view(torch.int32)
    scales = ((bits + 0xFFFF) & ~0xFFFF).view(torch.float32)
    values = (groups / scales).round_().to(torch.int8).flatten(-2)[..., :width]
    largest = torch.finfo(torch.bfloat16).max
    apart = wide.gather(-1, where).clamp_(-largest, largest).to(torch.bfloat16)
    return Quantised(
        values.scatter(-1, where, _APART), scales.squeeze(-1).to(torch.bfloat16), apart
    )


def dequantise(quantised: Quantised, dtype: torch.dtype, group_size: int = GROUP_SIZE) -> Tensor:
    """Undo `quantise`: (..., d) in `dtype`, finite, multiplied in float32 (where the product is exact).

    Raises ValueError when the scales do not fit values and group size, CorruptArtifact when the outliers do not.
    """
    values, scales, outliers = quantised
    width = values.shape[-1]
    if scales.shape != (*values.shape[:-1], -(-width // group_size)):
        raise ValueError(
            f"scales {tuple(scales.shape)} do not fit values {tuple(values.shape)} in groups of {group_size}"
        )
    groups = _grouped(values.float(), group_size).mul_(scales.float().unsqueeze(-1))
    # A scale that was rounded up can take a value at the end of the dtype's range past it.
    largest = torch.finfo(dtype).max
    states = groups.clamp_(-largest, largest).flatten(-2)[..., :width].to(dtype).contiguous()
    where = (values.reshape(-1) == _APART).nonzero().squeeze(1)
    if len(where) != outliers.numel():
        raise CorruptArtifact(
            f"{len(where)} states are marked as kept apart, but {outliers.numel()} are; rebuild the shard"
        )
    states.view(-1)[where] = outliers.to(dtype).reshape(-1)
    return states


def _grouped(states: Tensor, group_size: int) -> Tensor:
    """(..., d) to (..., groups, group_size), with zeros at the end; a copy."""
    missing = -states.shape[-1] % group_size
    padded = torch.nn.functional.pad(states, (0, missing)) if missing else states.clone()
    return padded.unflatten(-1, (-1, group_size))
