"""Judging one unit by the weights in its hf/."""

from __future__ import annotations

import json
from typing import Any

from pipeline.artifacts import atomic
from pipeline.downstream.encode import encode_labels
from pipeline.downstream.metrics import classification_metrics, rouge_metrics
from pipeline.downstream.predict import classify, generate
from pipeline.downstream.speed import measure_speed
from pipeline.downstream.tasks import TaskData
from pipeline.downstream.unit import Unit
from pipeline.hardware import resolve_dtype


def score(unit: Unit, data: TaskData, tokenizer: Any) -> str:
    """Predict the test rows with hf/; rank 0 writes predictions.jsonl, metrics.json and speed.json. Returns a line to show.

    The ranks share the batches, whose composition does not depend on how many ranks there are.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from pipeline.training import distributed

    root, task, test = unit.output.root, unit.task, data.test
    dtype = getattr(torch, resolve_dtype(unit.settings.dtype))
    model = AutoModelForSeq2SeqLM.from_pretrained(root / "hf", dtype=dtype).to(distributed.device()).eval()
    encoded = unit.encode(test, data, tokenizer)
    part = (distributed.rank(), distributed.world_size())
    found: dict[int, str]
    if data.labels is not None:
        ids = encode_labels(tokenizer, data)
        best = classify(model, encoded.sources, ids, pad_token_id=tokenizer.pad_token_id, part=part)
        found = {index: data.labels[label] for index, label in best.items()}
    else:
        found = generate(model, tokenizer, encoded.sources, max_new_tokens=task.target_length, part=part)
    found = _gather(found)
    if distributed.rank() != 0:
        return ""
    predictions = [found[index] for index in range(len(test))]
    scores = (classification_metrics if data.labels is not None else rouge_metrics)(predictions, test.targets)
    records = zip(test.rows, predictions, test.targets, strict=True)
    lines = [json.dumps({"row": r, "prediction": p, "reference": t}, ensure_ascii=False) for r, p, t in records]
    atomic.write_text(root / "predictions.jsonl", "".join(line + "\n" for line in lines))
    skipped = {"empty": test.empty, "dropped": test.dropped}
    cut = {"sources": encoded.cut_sources, "targets": encoded.cut_targets}
    atomic.write_json(root / "metrics.json", {"scores": scores, "rows": len(test), "skipped": skipped, "cut": cut})
    if data.labels is None:
        atomic.write_json(
            root / "speed.json", measure_speed(model, encoded.sources, pad_token_id=tokenizer.pad_token_id)
        )
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items()) + f" on {len(test)} rows"


def _gather(found: dict[int, str]) -> dict[int, str]:
    """Join what the ranks found."""
    from pipeline.training import distributed

    if distributed.world_size() == 1:
        return found
    import torch.distributed as dist

    parts: list[dict[int, str]] = [{} for _ in range(distributed.world_size())]
    dist.all_gather_object(parts, found)
    return {index: text for part in parts for index, text in part.items()}
