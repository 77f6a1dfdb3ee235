"""Lessons from the fine-tuned teacher: its targets for unlabelled rows, and its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import ranks
from pipeline.artifacts import Artifact
from pipeline.console import say
from pipeline.downstream.encode import encode
from pipeline.downstream.job import FineTuneJob, TaskTeacher
from pipeline.downstream.predict import decoder_inputs, load_fine_tuned, predict_texts
from pipeline.downstream.tasks import Examples, TaskData, unlabelled
from pipeline.errors import ConfigError
from pipeline.models.directory import load_tokenizer, same_vocabulary
from pipeline.recipe import LogitsDistillation

if TYPE_CHECKING:
    import torch

    from pipeline.artifacts.shard import Rows
    from pipeline.training.loader import Batch


def label_rows(teacher: TaskTeacher, data: TaskData, shards: str | None = None) -> None:
    """Let the fine-tuned teacher label every unlabelled row; every rank calls it.

    Sequence-level distillation (arXiv 1606.07947). Shard i holds rows i × shard_rows and following:
    columns source and target (UTF-8) and row (its position in the file). The ranks share a shard.
    shards: make these alone (`3,7-9`, `1::4`); all that are missing when None.
    """
    from pipeline.teacher.caching import chosen_shards

    output = teacher.labelled
    if output.complete():
        return
    ranks.barrier()
    rows = unlabelled(data.task, data.train)
    count = -(-len(rows) // teacher.shard_rows)
    chosen = chosen_shards(shards, count)
    missing = [index for index in output.missing(count) if index in chosen]
    ranks.barrier()  # every rank has looked before the first one writes
    if ranks.rank() == 0:
        output.begin()
    if missing:
        _label_shards(teacher, data, rows, missing, count)
    if ranks.rank() == 0:
        output.finish(count)
    ranks.barrier()


def _label_shards(
    teacher: TaskTeacher, data: TaskData, rows: Examples, shards: Sequence[int], count: int
) -> None:
    """Label and write some of `count` shards."""
    import torch

    job, size = teacher.chosen, teacher.shard_rows
    tokenizer, model = load_tokenizer(job.hf), load_fine_tuned(job.hf, job.settings.dtype)
    encoded = encode(tokenizer, replace(rows, targets=[""] * len(rows)), data.task)
    for index in shards:
        span = range(index * size, min(len(rows), (index + 1) * size))
        part, asked = rows.only(span), encoded.part(slice(span.start, span.stop))
        texts, _ = predict_texts(model, tokenizer, data, asked)
        if ranks.rank() == 0:
            columns: dict[str, Rows] = {
                "source": [source.encode() for source in part.sources],
                "target": [text.encode() for text in texts],
                "row": torch.tensor(part.rows),
            }
            teacher.labelled.write_shard(index, columns, tokens=sum(map(len, asked.sources)))
            say(f"distilled {data.task.name}: shard {index} of {count}, {len(part)} rows by {job}")


def training_examples(job: FineTuneJob, data: TaskData) -> Examples:
    """Return the examples that a job learns: gold, labelled, or gold and then labelled ones."""
    gold = data.train
    if job.signal is None or job.signal.data == "gold":
        return gold
    output = job.signal.teacher.labelled
    output.complete()  # refuses one that was made from another teacher
    labelled = Examples(f"{output.root}")
    for source, target, row in _labelled_rows(Artifact(output.root, "distilled")):
        if target:  # an empty target teaches nothing
            labelled.sources.append(source)
            labelled.targets.append(target)
            labelled.references.append(target)
            labelled.rows.append(row)
    if job.signal.data == "distilled":
        return labelled
    return Examples(
        f"{gold.origin} and {labelled.origin}",
        gold.sources + labelled.sources,
        gold.targets + labelled.targets,
        gold.references + labelled.references,
        gold.rows + labelled.rows,
        gold.empty,
        gold.dropped,
    )


def _labelled_rows(artifact: Artifact) -> Iterator[tuple[str, str, int]]:
    for index, shard in enumerate(artifact.shards):
        numbers = range(shard.rows)
        sources = artifact.ragged_rows(index, numbers, "source")
        targets = artifact.ragged_rows(index, numbers, "target")
        rows = artifact.rows(index, slice(None), ("row",))["row"].tolist()
        yield from zip(
            (s.decode() for s in sources), (t.decode() for t in targets), rows, strict=True
        )


class TeacherLogits:
    """The fine-tuned teacher, run with the student on every batch."""

    def __init__(
        self, job: FineTuneJob, teacher: TaskTeacher, settings: LogitsDistillation
    ) -> None:
        """Raises ConfigError when the teacher's vocabulary is not that of the job's model."""
        self.settings = settings
        _check_vocabulary(job, teacher)
        self._model = load_fine_tuned(teacher.chosen.hf, job.settings.dtype).requires_grad_(False)

    @classmethod
    def of(cls, job: FineTuneJob) -> TeacherLogits | None:
        """Return the teacher whose logits a job learns, if it learns any."""
        if job.signal is None or job.signal.logits is None:
            return None
        return cls(job, job.signal.teacher, job.signal.logits)

    def divergence(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean divergence from the teacher over the valid positions of the batch.

        logits: the student's, (rows, target, vocabulary).
        """
        import torch

        from pipeline.objectives.divergence import Divergence
        from pipeline.objectives.logits import divergence

        labels = batch["labels"]
        with torch.no_grad():
            teacher_logits = self._model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                decoder_input_ids=decoder_inputs(self._model, labels),
                use_cache=False,
            ).logits
        settings = Divergence(self.settings.divergence, temperature=self.settings.temperature)
        return divergence(logits, teacher_logits, labels >= 0, settings)


def _check_vocabulary(job: FineTuneJob, teacher: TaskTeacher) -> None:
    from transformers import AutoConfig

    student, directory = job.model.directory, teacher.chosen.hf
    size = AutoConfig.from_pretrained(directory).vocab_size
    same_size = student.architecture.vocab_size == size
    if not same_size or not same_vocabulary(student.tokenizer, load_tokenizer(directory)):
        raise ConfigError(
            f"finetune.models.{job.model.name}.logits: its vocabulary is not that of the teacher "
            f"{teacher.name}: leave `logits` out and learn from its texts with `data: distilled`"
        )
