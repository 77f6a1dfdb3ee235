"""Token rows as inputs of a model."""

from __future__ import annotations

import torch


def model_inputs(rows: dict[str, torch.Tensor], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Turn stored `input_ids` and `labels` into model inputs.

    rows: of any integer dtype, padded with pad_token_id.
    Returns int64 `input_ids` and `attention_mask` of shape (batch, L_in) and `labels` (batch,
    L_out), -100 at padding.
    """
    input_ids, labels = rows["input_ids"].to(torch.int64), rows["labels"].to(torch.int64)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != pad_token_id).to(torch.int64),
        "labels": labels.masked_fill(labels == pad_token_id, -100),
    }
