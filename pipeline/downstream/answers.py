"""What a model answers to the examples of a task: a label, a number or a text each. The ranks share the work."""

from __future__ import annotations

from typing import Any

from pipeline.downstream.encode import Encoded, encode_labels
from pipeline.downstream.judge import Predictions, judged
from pipeline.downstream.predict import classify, generate
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.training import distributed


def answer(
    model: Any,
    tokenizer: Any,
    data: TaskData,
    examples: Examples,
    encoded: Encoded,
    *,
    partitioned: bool = False,
) -> Predictions:
    """Answer every example; each rank gets all answers, which do not depend on how many ranks there are.

    model: a Transformers model in evaluation mode; partitioned: its weights are spread over the ranks (ZeRO-3).
    """
    texts, scores = answers(model, tokenizer, data, encoded, partitioned=partitioned)
    return judged(data.task, examples.rows, texts, examples.references, scores)


def answers(
    model: Any, tokenizer: Any, data: TaskData, encoded: Encoded, *, partitioned: bool = False
) -> tuple[list[str], list[dict[str, float]] | None]:
    """The text of each answer, and the log-likelihood of every label where labels are scored."""
    task, part = data.task, (distributed.rank(), distributed.world_size())
    if data.labels is not None and task.decoding == "likelihood":
        ids = encode_labels(tokenizer, data)
        found = gather(
            classify(model, encoded.sources, ids, pad_token_id=tokenizer.pad_token_id, part=part)
        )
        likelihoods = [
            dict(zip(data.labels, found[index], strict=True)) for index in range(len(found))
        ]
        # A tie goes to the earlier label.
        return [max(row, key=row.__getitem__) for row in likelihoods], likelihoods
    texts = gather(
        generate(
            model,
            tokenizer,
            encoded.sources,
            max_new_tokens=task.target_length,
            beams=task.beams if data.labels is None else 1,
            length_penalty=task.length_penalty,
            part=part,
            partitioned=partitioned,
        )
    )
    return [texts[index] for index in range(len(texts))], None


def gather(found: dict[int, Any]) -> dict[int, Any]:
    """Join what the ranks found."""
    if distributed.world_size() == 1:
        return found
    import torch.distributed as dist

    parts: list[dict[int, Any]] = [{} for _ in range(distributed.world_size())]
    dist.all_gather_object(parts, found)
    return {index: value for part in parts for index, value in part.items()}
