"""What a student learns from the fine-tuned teacher beside the gold targets: its targets for unlabelled rows, and its logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import Artifact, Output
from pipeline.console import say
from pipeline.downstream.answers import answers
from pipeline.downstream.encode import encode, load_tokenizer
from pipeline.downstream.tasks import Examples, TaskData, unlabelled
from pipeline.downstream.unit import Unit, distilled, teacher_of
from pipeline.errors import ConfigError
from pipeline.recipe import LogitsDistillation, Recipe


def distil(recipe: Recipe, data: TaskData, shards: str | None = None) -> Output:
    """Let the fine-tuned teacher answer every unlabelled row (sequence-level distillation, arXiv 1606.07947).

    Shard i holds rows i × shard_rows and following: columns source and target (UTF-8) and row (its position in the file).
    shards: make these alone (`3,7-9`, `1::4`); all that are missing when None. Every rank calls it, and they share each shard.
    """
    import torch

    from pipeline.teacher.cache import chosen_shards
    from pipeline.training import distributed

    task, teacher = data.task, teacher_of(recipe, data.task)
    output = distilled(recipe, task)
    if output.complete():
        return output
    distributed.barrier()
    rows, size = unlabelled(task, data.train), recipe.finetune.shard_rows
    count = -(-len(rows) // size)
    chosen = chosen_shards(shards, count)
    todo = [index for index in output.missing(count) if index in chosen]
    distributed.barrier()  # every rank has looked before the first one writes
    if distributed.rank() == 0:
        output.begin()
    if todo:
        directory = teacher.output.root / "hf"
        tokenizer, model = load_tokenizer(directory), _load(directory, teacher)
        encoded = encode(tokenizer, replace(rows, targets=[""] * len(rows)), task)
        for index in todo:
            span = slice(index * size, min(len(rows), (index + 1) * size))
            part = rows.only(range(len(rows))[span])
            asked = encoded.part(span)
            texts, _ = answers(model, tokenizer, data, asked)
            if distributed.rank() == 0:
                columns: dict[str, Any] = {
                    "source": [source.encode() for source in part.sources],
                    "target": [text.encode() for text in texts],
                    "row": torch.tensor(part.rows),
                }
                output.write_shard(index, columns, tokens=sum(map(len, asked.sources)))
                say(
                    f"distilled {task.name}: shard {index} of {count}, {len(part)} rows by {teacher}"
                )
        del model
    if distributed.rank() == 0:
        output.finish(count)
    distributed.barrier()
    return output


def training_examples(unit: Unit, data: TaskData) -> Examples:
    """The examples that a unit learns: gold, distilled, or gold and then distilled ones."""
    kind = unit.settings.data_of(unit.model)
    if kind == "gold":
        return data.train
    output = distilled(unit.recipe, unit.task)
    output.complete()  # refuses one that was made from another teacher
    found = Examples(f"{output.root}", [], [], [], [], 0, 0)
    for source, target, row in _rows(Artifact(output.root, "distilled")):
        if target:  # a teacher that says nothing teaches nothing
            found.sources.append(source)
            found.targets.append(target)
            found.references.append(target)
            found.rows.append(row)
    if kind == "distilled":
        return found
    gold = data.train
    return Examples(
        f"{gold.origin} and {found.origin}",
        gold.sources + found.sources,
        gold.targets + found.targets,
        gold.references + found.references,
        gold.rows + found.rows,
        gold.empty,
        gold.dropped,
    )


def _rows(artifact: Artifact) -> Iterator[tuple[str, str, int]]:
    for index, shard in enumerate(artifact.shards):
        numbers = range(shard.rows)
        sources = artifact.ragged_rows(index, numbers, "source")
        targets = artifact.ragged_rows(index, numbers, "target")
        rows = artifact.rows(index, slice(None), ("row",))["row"].tolist()
        yield from zip(
            (s.decode() for s in sources), (t.decode() for t in targets), rows, strict=True
        )


class Lesson:
    """The fine-tuned teacher, run beside the student on every batch."""

    def __init__(self, unit: Unit, settings: LogitsDistillation) -> None:
        """Raises ConfigError when its vocabulary is not the student's."""
        teacher = teacher_of(unit.recipe, unit.task)
        self.settings = settings
        directory = teacher.output.root / "hf"
        _check_vocabulary(unit, directory)
        self._model = _load(directory, unit)

    def divergence(self, logits: Any, batch: dict[str, Any]) -> Any:
        """Mean divergence over the valid positions of the batch, between the teacher and logits (rows, target, vocabulary)."""
        import torch

        from pipeline.objectives.divergence import Divergence
        from pipeline.objectives.logits import divergence

        labels = batch["labels"]
        with torch.no_grad():
            theirs = self._model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                decoder_input_ids=self._model.prepare_decoder_input_ids_from_labels(labels=labels),
                use_cache=False,
            ).logits
        settings = Divergence(self.settings.divergence, temperature=self.settings.temperature)
        return divergence(logits, theirs, labels >= 0, settings)


def lesson_of(unit: Unit) -> Lesson | None:
    return Lesson(unit, unit.candidate.logits) if unit.candidate.logits is not None else None


def _load(directory: Path, unit: Unit) -> Any:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    from pipeline.hardware import resolve_dtype
    from pipeline.training import distributed

    dtype = getattr(torch, resolve_dtype(unit.settings.dtype))
    model = (
        AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=dtype)
        .to(distributed.device())
        .eval()
    )
    return model.requires_grad_(False)


def _check_vocabulary(unit: Unit, directory: Path) -> None:
    from transformers import AutoConfig

    ours, theirs = load_tokenizer(unit.directory), load_tokenizer(directory)
    sizes = [AutoConfig.from_pretrained(where).vocab_size for where in (unit.directory, directory)]
    if ours.get_vocab() != theirs.get_vocab() or sizes[0] != sizes[1]:
        raise ConfigError(
            f"finetune.models.{unit.model}.logits: its vocabulary is not that of the teacher "
            f"{unit.settings.teacher}: leave `logits` out and learn from its texts with `data: distilled`"
        )
