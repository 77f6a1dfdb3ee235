"""Judging one unit by the weights in its hf/."""

from __future__ import annotations

import json
from typing import Any

from pipeline.downstream.answers import answer
from pipeline.downstream.encode import encode
from pipeline.downstream.record import Origin, write_record
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.downstream.unit import Unit
from pipeline.hardware import resolve_dtype


def score(unit: Unit, data: TaskData, train_on: Examples, tokenizer: Any) -> tuple[list[str], str]:
    """Predict the test rows with hf/; rank 0 writes the unit's record. Returns its files and a line to show."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from pipeline.training import distributed

    root, settings = unit.output.root, unit.settings
    dtype = getattr(torch, resolve_dtype(settings.dtype))
    model = (
        AutoModelForSeq2SeqLM.from_pretrained(root / "hf", dtype=dtype)
        .to(distributed.device())
        .eval()
    )
    encoded = {prefix: encode(tokenizer, part, unit.task) for prefix, part in data.tests().items()}
    found = {
        prefix: answer(model, tokenizer, data, part, encoded[prefix])
        for prefix, part in data.tests().items()
    }
    if distributed.rank() != 0:
        return [], ""
    trained = json.loads((root / "trained.json").read_text(encoding="utf-8"))
    origin = Origin(
        unit.model,
        seed=unit.seed,
        learning_rate=unit.learning_rate,
        data=settings.data_of(unit.model),
        teacher=settings.teacher if unit.is_taught else None,
        steps=trained["steps"],
    )
    files, scores = write_record(
        root,
        origin,
        data,
        found,
        train=train_on,
        validation=trained["validation"],
        cut={"sources": encoded[""].cut_sources, "targets": encoded[""].cut_targets},
        resamples=settings.resamples,
    )
    shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    return [*files, "trained.json"], f"{shown} on {len(data.test)} rows"
