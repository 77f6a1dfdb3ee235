"""Positions of logits: which are valid, and a few of them at a time in reused buffers."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.objectives.scratch import Scratch, chunk_size, log_softmax_, wide_dtype

#: The label that is not scored, as in Transformers.
IGNORE = -100


def valid_rows(mask: Tensor | None, logits: Tensor) -> Tensor:
    """Return the flat indices of the valid positions, in order."""
    positions = logits.shape[:-1]
    if mask is None:
        return torch.arange(positions.numel(), device=logits.device)
    if mask.shape != positions:
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}; "
            f"it must be that of the positions, {tuple(positions)}"
        )
    return mask.reshape(-1).nonzero().squeeze(1)


def chunk_rows(logits: Tensor) -> int:
    """Return how many positions one chunk holds."""
    return max(1, chunk_size(logits.device) // max(logits.shape[-1], 1))


class Chunks:
    """Rows of logits in the wide dtype, in reused buffers.

    What a method returns holds until the next call of that method.
    """

    def __init__(self, student: Tensor, temperature: float) -> None:
        """student: (positions..., vocabulary)."""
        self.student = student.reshape(-1, student.shape[-1])
        self.temperature = temperature
        self.wide = wide_dtype(student)
        self.scratch = Scratch(student.device)

    def take(self, name: str, flat: Tensor, rows: Tensor) -> Tensor:
        """Return some rows of `flat` in the buffer `name`."""
        shape = (len(rows), flat.shape[-1])
        out = self.scratch.get(name, shape, self.wide)
        if flat.dtype == self.wide:
            return torch.index_select(flat, 0, rows, out=out)
        return out.copy_(
            torch.index_select(flat, 0, rows, out=self.scratch.get("raw", shape, flat.dtype))
        )

    def normalise(self, logits: Tensor) -> Tensor:
        """Return log-probabilities at the temperature; the logits are lost."""
        return log_softmax_(logits if self.temperature == 1.0 else logits.div_(self.temperature))

    def log_q(self, rows: Tensor) -> Tensor:
        """Return the student's log-probabilities."""
        return self.normalise(self.take("q", self.student, rows))

    def log_p(self, teacher: Tensor, rows: Tensor, share: float) -> Tensor:
        """Return the target's log-probabilities; below a share of 1 it is TAID's."""
        logits = self.take("p", teacher, rows)
        if share != 1.0:
            logits.lerp_(self.take("q", self.student, rows), 1 - share)
        return self.normalise(logits)

    def gradient(self, rows: Tensor) -> Tensor:
        """Return a tensor for the gradient of the flat logits, zero where no row will be put."""
        full = len(rows) == len(self.student)
        return torch.empty_like(self.student) if full else torch.zeros_like(self.student)

    def put(self, out: Tensor, rows: Tensor, values: Tensor) -> None:
        """Write `values` to some rows of `out`, in its dtype."""
        if values.dtype != out.dtype:
            values = self.scratch.get("raw", tuple(values.shape), out.dtype).copy_(values)
        out.index_copy_(0, rows, values)
