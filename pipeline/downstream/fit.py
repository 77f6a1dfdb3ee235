"""Fine-tuning of one unit: the training loop's batches, loss and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.artifacts import atomic
from pipeline.downstream.answers import answer
from pipeline.downstream.buckets import BucketedOrder
from pipeline.downstream.encode import Encoded, EncodedSource, encode
from pipeline.downstream.judge import score
from pipeline.downstream.lessons import Lesson
from pipeline.downstream.record import positive_label
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.downstream.unit import Unit
from pipeline.models import open_model

if TYPE_CHECKING:
    from pipeline.training.loop import Trained


def fit(
    unit: Unit, data: TaskData, train_on: Examples, lesson: Lesson | None, tokenizer: Any
) -> None:
    """Train the unit's model, going on from its newest checkpoint; write trained.json and then hf/. Every rank calls it.

    train_on: the examples that are learnt; lesson: the fine-tuned teacher's logits, where the model learns from them, too.
    """
    from pipeline.training import distributed
    from pipeline.training.compilation import compile_blocks
    from pipeline.training.engine import load_model
    from pipeline.training.export import export_model
    from pipeline.training.loop import Destination, train
    from pipeline.training.task import Task

    settings, root = unit.settings, unit.output.root
    source = EncodedSource(encode(tokenizer, train_on, unit.task), tokenizer.pad_token_id)
    encoded = encode(tokenizer, data.validation, unit.task)
    model = load_model(open_model(unit.candidate.model), settings)
    if settings.compile:
        compile_blocks(model)
    loss, validate = (
        _loss(source.mean_target_tokens, lesson),
        _validate(unit, data, encoded, tokenizer),
    )

    class FineTuning(Task):
        label = f"finetune {unit}"

        def loss(self, engine: Any, batch: Any, step: int) -> Any:
            return loss(engine, batch, step)

        def validate(self, engine: Any, step: int) -> Any:
            return validate(engine, step)

        def flops(self, source: int, target: int) -> float:
            from pipeline.models.architecture import Architecture

            return Architecture.of(model.config).training_flops(source, target).total

    order = BucketedOrder(source.lengths, settings.batch_size, unit.seed, settings.bucket_batches)
    place = Destination(root, unit.output.fingerprint, unit.seed)
    trained = train(model, FineTuning(), source, order, settings, place)
    if distributed.rank() == 0:
        steps = {"best": trained.exported, "trained": trained.steps}
        kept = {name: trained.validation[name] for name in unit.task.measured_by}
        atomic.write_json(root / "trained.json", {"steps": steps, "validation": kept})
    export_model(
        trained.engine.module, root / "hf", unit.directory, _card(unit, len(train_on), trained)
    )
    trained.engine.destroy()


def _loss(mean_target_tokens: float, lesson: Lesson | None) -> Any:
    """Cross-entropy of the target tokens, summed and divided by rows × the training set's mean target length.

    A token weighs the same in whatever micro batch it falls, so the gradient does not depend on how a batch is divided;
    a mean over each micro batch's own tokens would. With a lesson, (1 - weight) of it and weight of the divergence from the
    teacher, divided alike.
    """

    def loss(engine: Any, batch: dict[str, Any], step: int) -> dict[str, Any]:
        logits, labels = _logits(engine, batch), batch["labels"]
        rows = len(labels) * mean_target_tokens
        gold = _cross_entropy(logits, labels) / rows
        if lesson is None:
            return {"loss": gold}
        taught = lesson.divergence(logits, batch) * (int((labels >= 0).sum()) / rows)
        weight = lesson.settings.weight
        return {"loss": (1 - weight) * gold + weight * taught, "lm": gold, "logits": taught}

    return loss


def _validate(unit: Unit, data: TaskData, encoded: Encoded, tokenizer: Any) -> Any:
    """What lacks of the best possible score first, which is what training looks at, then every metric."""
    from pipeline.training.configuration import is_partitioned

    task, positive = unit.task, positive_label(data)
    top = 100.0 if task.kind == "generation" else 1.0

    def validate(engine: Any, step: int) -> dict[str, float]:
        partitioned = is_partitioned(unit.settings)
        found = answer(
            engine.module, tokenizer, data, data.validation, encoded, partitioned=partitioned
        )
        scores = score(task, found, positive)
        return {"error": top - scores[task.judged_by], **scores}

    return validate


def _logits(engine: Any, batch: dict[str, Any]) -> Any:
    return engine(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=engine.module.prepare_decoder_input_ids_from_labels(
            labels=batch["labels"]
        ),
        use_cache=False,
    ).logits


def _cross_entropy(logits: Any, labels: Any) -> Any:
    """Sum over target tokens of -log p, float32."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


def _card(unit: Unit, rows: int, trained: Trained) -> str:
    task = unit.task
    early = (
        f" (training was stopped early, after {trained.steps})"
        if trained.steps < unit.settings.max_steps
        else ""
    )
    return (
        f"# {unit.model}, fine-tuned on {task.name}\n\n"
        f"A {task.kind} model: `{task.source}` → `{task.target}`, {trained.exported} steps of "
        f"{unit.settings.batch_size} examples out of {rows}{early}. Scores and predictions stand beside this directory.\n"
    )
