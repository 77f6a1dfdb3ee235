"""What both ways of the head share: the positions that count, and chunks of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.objectives.logits import CHUNK_CPU, CHUNK_CUDA
from pipeline.objectives.scratch import Scratch, log_softmax_


def scored_rows(
    hidden: Tensor,
    divergence_rows: Tensor,
    label_rows: Tensor,
    labels: Tensor | None,
    temperature: float,
    wide: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The positions either loss reads, each position's weight in the two means, and its label (0 where it has none)."""
    positions = hidden.shape[:-1].numel()
    div_weight = torch.zeros(positions, dtype=wide, device=hidden.device)
    div_weight[divergence_rows] = temperature**2 / max(len(divergence_rows), 1)
    lm_weight = torch.zeros_like(div_weight)
    lm_weight[label_rows] = 1 / max(len(label_rows), 1)
    rows = ((div_weight > 0) | (lm_weight > 0)).nonzero().squeeze(1)
    targets = None if labels is None else labels[rows].long().clamp(min=0)
    return rows, div_weight[rows], lm_weight[rows], targets


def logits_of(
    scratch: Scratch,
    name: str,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    wide: torch.dtype,
) -> Tensor:
    shape = (hidden.shape[0], weight.shape[0])
    logits = scratch.get(name, shape, wide)
    if hidden.dtype == wide:
        torch.mm(hidden, weight.t(), out=logits)
    else:
        logits.copy_(torch.mm(hidden, weight.t(), out=scratch.get("raw", shape, hidden.dtype)))
    if scale != 1.0:
        logits.mul_(scale)
    return logits if bias is None else logits.add_(bias)


def normalise(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(log-probabilities, log-sum-exp of the tempered logits); the logits are lost.

    The latter from the two maxima: where the log-probability is near 0 nothing cancels, and torch.logsumexp takes
    ten times as long on a CPU.
    """
    if temperature != 1.0:
        logits.div_(temperature)
    top = logits.amax(-1)
    log_q = log_softmax_(logits)
    return log_q, top.sub_(log_q.amax(-1))


def budget(x: Tensor) -> int:
    return CHUNK_CPU if x.device.type == "cpu" else CHUNK_CUDA
