"""Fine-tuning of one job: the batches, the loss and the validation of the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import ranks
from pipeline.artifacts import atomic
from pipeline.downstream.batches import BucketedOrder, EncodedSource
from pipeline.downstream.encode import encode
from pipeline.downstream.job import FineTuneJob
from pipeline.downstream.predict import decoder_inputs, predict
from pipeline.downstream.task_metrics import evaluate
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.downstream.teacher_signal import TeacherLogits
from pipeline.training.compilation import compile_blocks
from pipeline.training.configuration import is_partitioned
from pipeline.training.engine import load_model
from pipeline.training.export import export_model
from pipeline.training.loop import Destination, Trained, train
from pipeline.training.task import Engine, Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from pipeline.training.loader import Batch


class FineTuning(Task):
    """One job as the training loop sees it."""

    def __init__(
        self,
        job: FineTuneJob,
        data: TaskData,
        tokenizer: PreTrainedTokenizerBase,
        mean_target_tokens: float,
        teacher: TeacherLogits | None,
    ) -> None:
        """mean_target_tokens: over the training examples. teacher: None to learn no logits."""
        self.label = f"finetune {job}"
        self._job, self._data, self._tokenizer = job, data, tokenizer
        self._encoded = encode(tokenizer, data.validation, job.task)
        self._mean_target_tokens, self._teacher = mean_target_tokens, teacher

    def loss(self, engine: Engine, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """Return the cross-entropy of the targets and, with a teacher, the divergence from it.

        Summed over target tokens, divided by rows × the training set's mean target length. A token
        then weighs the same in every micro batch, and the gradient does not depend on how a batch
        is divided; with a mean over each micro batch's own tokens it would.
        With a teacher: (1 - weight) × cross-entropy + weight × divergence, divided alike.
        """
        labels = batch["labels"]
        logits = engine(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=decoder_inputs(engine.module, labels),
            use_cache=False,
        ).logits
        rows = len(labels) * self._mean_target_tokens
        gold = _cross_entropy(logits, labels) / rows
        if self._teacher is None:
            return {"loss": gold}
        tokens = int((labels >= 0).sum())
        taught = self._teacher.divergence(logits, batch) * (tokens / rows)
        weight = self._teacher.settings.weight
        return {"loss": (1 - weight) * gold + weight * taught, "lm": gold, "logits": taught}

    def validate(self, engine: Engine, step: int) -> dict[str, float]:
        """Return `error`, which early stopping watches, and then every metric of the task.

        error: the best possible score minus the score by the task's first metric.
        """
        task, data = self._job.task, self._data
        paired = predict(
            engine.module,
            self._tokenizer,
            data,
            data.validation,
            self._encoded,
            partitioned=is_partitioned(self._job.settings),
        )
        scores = evaluate(task, paired, data.positive)
        best_possible = 100.0 if task.kind == "generation" else 1.0
        return {"error": best_possible - scores[task.judged_by], **scores}

    def flops(self, source: int, target: int) -> float:
        """Return the operations of training on one example. source, target: lengths in tokens."""
        return self._job.model.directory.architecture.training_flops(source, target).total


def fine_tune(job: FineTuneJob, data: TaskData, examples: Examples) -> None:
    """Train the job's model, continuing from its newest checkpoint; every rank calls it.

    Writes trained.json and then hf/. examples: those to learn.
    """
    settings, directory = job.settings, job.model.directory
    tokenizer = directory.tokenizer
    teacher = TeacherLogits.of(job)
    source = EncodedSource(encode(tokenizer, examples, job.task), tokenizer.pad_token_id)
    task = FineTuning(job, data, tokenizer, source.mean_target_tokens, teacher)
    model = load_model(directory, settings)
    if settings.compile:
        compile_blocks(model)
    order = BucketedOrder(source.lengths, settings.batch_size, job.seed, settings.bucket_batches)
    place = Destination(job.root, job.output.fingerprint, job.seed)
    trained = train(model, task, source, order, settings, place)
    if ranks.rank() == 0:
        steps = {"best": trained.exported, "trained": trained.steps}
        validation = {name: trained.validation[name] for name in job.task.measured_by}
        atomic.write_json(job.root / "trained.json", {"steps": steps, "validation": validation})
    card = _card(job, len(examples), trained)
    export_model(trained.engine.module, job.hf, directory.path, card)
    trained.engine.destroy()


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum over target tokens of -log p, float32."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


def _card(job: FineTuneJob, rows: int, trained: Trained) -> str:
    task, settings = job.task, job.settings
    early = ""
    if trained.steps < settings.max_steps:
        early = f" (training was stopped early, after {trained.steps})"
    return (
        f"# {job.model.name}, fine-tuned on {task.name}\n\n"
        f"A {task.kind} model: `{task.source}` → `{task.target}`, {trained.exported} steps of "
        f"{settings.batch_size} examples out of {rows}{early}. "
        "Scores and predictions are next to this directory.\n"
    )
