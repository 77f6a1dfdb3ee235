"""Text that a model in training generates for a few held-out rows, shown in TensorBoard."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from pipeline import ranks
from pipeline.training.loader import Batch, BatchSource
from pipeline.training.order import Row
from pipeline.training.task import Engine

#: The number of tokens generated for each row.
LENGTH = 32


@torch.no_grad()
def greedy(engine: Engine, batch: Batch, length: int, pad: int) -> torch.Tensor:
    """Return (rows, length) ids, each the most probable one after those before it.

    Every rank must call it. It makes one forward pass of the engine per token: under ZeRO-3 the
    model's own `generate` would bypass the hooks that gather its weights.
    engine: of a `Distiller`, in evaluation mode. batch: input_ids, attention_mask and labels.
    The labels give the token that each row starts from: mBART's depends on them.
    """
    student: Any = engine.module.student
    start = student.prepare_decoder_input_ids_from_labels(labels=batch["labels"])[:, :1]
    generated = torch.full((len(start), length), pad, dtype=torch.long, device=start.device)
    for position in range(length):
        # A position does not see later ones.
        decoder_input_ids = torch.cat([start, generated[:, :-1]], dim=1)
        inputs = batch | {"decoder_input_ids": decoder_input_ids}
        generated[:, position] = engine(batch=inputs, wanted="ids")["ids"][:, position]
    return generated


def samples(
    engine: Engine,
    source: BatchSource,
    rows: list[Row],
    tokenizer: PreTrainedTokenizerBase,
    pad: int,
) -> dict[str, str]:
    """Return Markdown for each row: the input, the target and the generated text.

    Every rank must call it.
    """
    batch = {name: tensor.to(ranks.device()) for name, tensor in source.read(rows).items()}
    labels = batch["labels"]
    generated = greedy(engine, batch, min(LENGTH, labels.shape[1]), pad)
    texts = {
        "input": batch["input_ids"],
        "target": torch.where(labels == -100, pad, labels),
        f"generated (at most {LENGTH} tokens)": _until(generated, tokenizer.eos_token_id, pad),
    }
    decoded = {
        title: tokenizer.batch_decode(
            [[token for token in row if token != pad] for row in ids.tolist()]
        )
        for title, ids in texts.items()
    }

    def markdown(number: int) -> str:
        # Markdown leaves indented text as it is, up to a line break.
        return "\n\n".join(
            f"**{title}**\n\n    {' '.join(column[number].split())}"
            for title, column in decoded.items()
        )

    return {f"samples/{number}": markdown(number) for number in range(len(rows))}


def _until(ids: torch.Tensor, end: int, pad: int) -> torch.Tensor:
    """Return `ids` with `pad` after the first `end` of each row."""
    ended = (ids == end).cumsum(1) - (ids == end).long()
    return torch.where(ended > 0, pad, ids)
