"""What a model being trained writes for a few held-out rows, to be read in TensorBoard."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from pipeline.training import distributed
from pipeline.training.loader import Batch, BatchSource
from pipeline.training.order import Row
from pipeline.training.task import Engine

#: Tokens that are generated of each row.
LENGTH = 32


@torch.no_grad()
def greedy(engine: Engine, batch: Batch, length: int, pad: int) -> torch.Tensor:
    """Return (rows, length) ids, each the most probable after those before it; every rank must call it.

    One forward pass of the engine a token: under ZeRO-3 a model's own `generate` would pass by what gathers its weights.
    engine: of a `Distiller`, in evaluation mode; batch: input_ids, attention_mask.
    """
    rows = len(batch["input_ids"])
    written = torch.full((rows, length), pad, dtype=torch.long, device=batch["input_ids"].device)
    for position in range(length):
        # Later positions are not seen by this one.
        ids = engine(batch=batch | {"labels": written}, wanted="ids")["ids"]
        written[:, position] = ids[:, position]
    return written


def samples(
    engine: Engine,
    source: BatchSource,
    rows: list[Row],
    tokenizer: PreTrainedTokenizerBase,
    pad: int,
) -> dict[str, str]:
    """Return Markdown for each row: the input, the target and what the model writes; every rank must call it."""
    batch = {name: tensor.to(distributed.device()) for name, tensor in source.read(rows).items()}
    labels = batch["labels"]
    written = greedy(engine, batch, min(LENGTH, labels.shape[1]), pad)
    texts = {
        "input": batch["input_ids"],
        "target": torch.where(labels == -100, pad, labels),
        f"generated (at most {LENGTH} tokens)": _until(written, tokenizer.eos_token_id, pad),
    }
    decoded = {
        title: tokenizer.batch_decode(
            [[token for token in row if token != pad] for row in ids.tolist()]
        )
        for title, ids in texts.items()
    }

    def shown(number: int) -> str:
        # Indented, Markdown leaves the text as it is; a line break would end that.
        return "\n\n".join(
            f"**{title}**\n\n    {' '.join(column[number].split())}"
            for title, column in decoded.items()
        )

    return {f"samples/{number}": shown(number) for number in range(len(rows))}


def _until(ids: torch.Tensor, end: int, pad: int) -> torch.Tensor:
    """`ids` with everything after the first `end` of a row made `pad`."""
    ended = (ids == end).cumsum(1) - (ids == end).long()
    return torch.where(ended > 0, pad, ids)
