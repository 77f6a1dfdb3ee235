"""Storage of hidden states: as they are, in another float dtype, or as int8."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipeline.recipe import States
from pipeline.teacher.quantise import Quantised, dequantise, quantise


def store(name: str, states: torch.Tensor, settings: States) -> dict[str, torch.Tensor]:
    """Return the cache columns of `states` (rows, length, d_model), on their device.

    The columns are `name`, and for int8 also `name.scales` and `name.outliers`. Raises
    ArtifactError when the states are not finite.
    """
    if settings.dtype == "int8":
        parts = quantise(states, settings.group_size, min(settings.outliers, states.shape[-1]))
        return {
            name: parts.values,
            f"{name}.scales": parts.scales,
            f"{name}.outliers": parts.outliers,
        }
    dtype = states.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
    return {name: states.to(dtype)}


def restore(
    name: str, columns: Mapping[str, torch.Tensor], settings: States, dtype: torch.dtype
) -> torch.Tensor | None:
    """Undo `store`: return (rows, length, d_model), or None when the columns are not there.

    dtype: the dtype of the result, which the tail computes in.
    """
    if name not in columns:
        return None
    if settings.dtype == "int8":
        parts = Quantised(columns[name], columns[f"{name}.scales"], columns[f"{name}.outliers"])
        return dequantise(parts, dtype, settings.group_size)
    return columns[name].to(dtype)


def names(name: str, settings: States) -> tuple[str, ...]:
    """Return the names of the columns that `store` writes for `name`."""
    return (name, f"{name}.scales", f"{name}.outliers") if settings.dtype == "int8" else (name,)


def lossless(settings: States, computed: str) -> bool:
    """Return whether states computed in the dtype `computed` come back bit for bit."""
    return settings.dtype in ("auto", computed, "float32")
