"""Time the finished models of a comparison in alternation, in one process on one machine.

Models that are timed when each is done, an hour or a node apart, differ by what else the machine was doing then: on a busy one a
student of a third of its teacher's layers was measured as the slower of the two.
"""

from __future__ import annotations

import gc
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import atomic
from pipeline.console import say
from pipeline.downstream.encode import encode_labels, load_tokenizer, token_ids
from pipeline.downstream.results import chosen
from pipeline.downstream.speed import Setting, Work, measurement, time_model
from pipeline.downstream.tasks import TaskData, load_task
from pipeline.hardware import resolve_dtype
from pipeline.recipe import Recipe

#: Every model takes its turn so many times.
ROUNDS = 3
#: Test rows that the batches are made of.
ROWS = 32


def time_models(recipe: Recipe) -> None:
    """Write speed.json beside one unit of every model, for each task on which all models are finished and not all are timed."""
    results = chosen(recipe)
    for task in recipe.finetune.tasks:
        found = results.get(task.name, {})
        roots = {
            model: found[model].units[0].root for model in recipe.finetune.models if model in found
        }
        if len(roots) == len(recipe.finetune.models) and not all(
            (r / "speed.json").is_file() for r in roots.values()
        ):
            say(f"timing {len(roots)} models on {task.name}")
            _time(
                load_task(task, recipe.finetune.validation_rows),
                roots,
                resolve_dtype(recipe.finetune.dtype),
            )


def _time(data: TaskData, roots: Mapping[str, Path], dtype: str) -> None:
    works = {model: _work(data, root / "hf") for model, root in roots.items()}
    times: dict[str, dict[Setting, list[float]]] = {model: {} for model in roots}
    for _ in range(ROUNDS):
        for model, root in roots.items():
            # Loaded anew in each round, since all of them together may not fit.
            loaded = _load(root / "hf", dtype)
            for setting, seconds in time_model(loaded, works[model]).items():
                times[model].setdefault(setting, []).extend(seconds)
            del loaded
            gc.collect()
    session = secrets.token_hex(4)
    for model, root in roots.items():
        lines = [
            measurement(setting, seconds, works[model], session)
            for setting, seconds in times[model].items()
        ]
        atomic.write_json(root / "speed.json", lines)


def _work(data: TaskData, model: Path) -> Work:
    tokenizer = load_tokenizer(model)
    sources, _ = token_ids(
        tokenizer, data.test.spread(ROWS).sources, data.task.source_length, target=False
    )
    scored = data.labels is not None and data.task.decoding == "likelihood"
    return Work(sources, encode_labels(tokenizer, data) if scored else None, tokenizer.pad_token_id)


def _load(directory: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from pipeline.training import distributed

    model = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    return model.to(distributed.device()).eval()
