"""Distillation as a task of the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from pipeline.distillation.distiller import Distiller
from pipeline.distillation.samples import samples
from pipeline.distillation.token_source import TokenSource
from pipeline.recipe import Distill
from pipeline.training.loader import Batch
from pipeline.training.task import Engine, Task
from pipeline.training.validation import first_rows, mean_over_rows


class Distillation(Task):
    """Trains a `Distiller`; validates with the LM loss on held-out rows."""

    def __init__(
        self,
        label: str,
        model: Distiller,
        held_out: TokenSource,
        settings: Distill,
        tokenizer: PreTrainedTokenizerBase,
        pad_token_id: int,
    ) -> None:
        self.label, self._model, self._held_out = label, model, held_out
        self.follows_means = model.follows_means
        self._rows = first_rows(held_out, settings.validation_rows)
        self._sample_rows = self._rows[: settings.samples]
        self._tokenizer, self._pad = tokenizer, pad_token_id

    def loss(self, engine: Engine, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        return engine(batch=batch, step=step)

    def validate(self, engine: Engine, step: int) -> dict[str, float]:
        return {"lm_loss": mean_over_rows(engine, self._held_out, self._rows, lm_score)}

    def samples(self, engine: Engine) -> dict[str, str]:
        if not self._sample_rows:
            return {}
        return samples(engine, self._held_out, self._sample_rows, self._tokenizer, self._pad)

    def flops(self, source: int, target: int) -> float:
        return self._model.flops(source, target)

    def after_step(self, step: int, means: Mapping[str, float]) -> None:
        self._model.after_step(step, means)

    def state(self) -> dict[str, Any]:
        return self._model.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._model.restore(state)


def lm_score(engine: Engine, batch: Batch) -> tuple[float, int]:
    """Return the sum of the LM loss over target tokens, and their number.

    engine: of a `Distiller`.
    """
    tokens = int((batch["labels"] != -100).sum())
    return float(engine(batch=batch, wanted="lm")["lm"]) * tokens, tokens
