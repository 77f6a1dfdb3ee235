"""Fine-tuning of one unit: the training loop's batches, loss and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.downstream.encode import EncodedSource
from pipeline.downstream.tasks import TaskData
from pipeline.downstream.unit import Unit

if TYPE_CHECKING:
    from pipeline.training.loop import LossFn, Trained, ValidateFn


def fit(unit: Unit, data: TaskData, tokenizer: Any) -> None:
    """Train the unit's model, going on from its newest checkpoint, and write its hf/. Every rank calls it."""
    from pipeline.training.compilation import compile_blocks
    from pipeline.training.engine import load_model
    from pipeline.training.export import export_model
    from pipeline.training.loop import train
    from pipeline.training.window import model_cost

    settings, root = unit.settings, unit.output.root
    source = EncodedSource(unit.encode(data.train, data, tokenizer), tokenizer.pad_token_id)
    validation = None
    if data.validation is not None:
        part = data.validation.spread(settings.validation_rows)
        validation = EncodedSource(unit.encode(part, data, tokenizer), tokenizer.pad_token_id)
    model = load_model(unit.directory, settings)
    if settings.compile:
        compile_blocks(model)
    trained = train(
        model=model,
        settings=settings,
        source=source,
        loss=_loss(source.mean_target_tokens),
        out=root,
        identity=unit.output.fingerprint,
        seed=unit.recipe.seed,
        label=f"finetune {unit}",
        validate=None if validation is None else _validate(validation),
        cost=model_cost(model.config),
    )
    export_model(trained.engine.module, root / "hf", unit.directory, _card(unit, len(data.train), trained))
    trained.engine.destroy()


def _loss(mean_target_tokens: float) -> LossFn:
    """Cross-entropy of the target tokens, summed and divided by rows × the training set's mean target length.

    A token weighs the same in whatever micro batch it falls, so the gradient does not depend on how a batch is divided;
    a mean over each micro batch's own tokens would.
    """

    def loss(engine: Any, batch: dict[str, Any], step: int) -> dict[str, Any]:
        return {"loss": _cross_entropy(engine, batch) / (len(batch["labels"]) * mean_target_tokens)}

    return loss


def _validate(source: EncodedSource) -> ValidateFn:
    """Mean cross-entropy a target token over all rows, which the ranks share."""
    from pipeline.training.validation import first_rows, mean_over_rows

    rows = first_rows(source, source.shard_rows[0])

    def score(engine: Any, batch: dict[str, Any]) -> tuple[float, int]:
        return float(_cross_entropy(engine, batch)), int((batch["labels"] >= 0).sum())

    return lambda engine, step: {"loss": mean_over_rows(engine, source, rows, score)}


def _cross_entropy(engine: Any, batch: dict[str, Any]) -> Any:
    """Sum over target tokens of -log p, float32."""
    from torch.nn.functional import cross_entropy

    labels = batch["labels"]
    output = engine(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=engine.module.prepare_decoder_input_ids_from_labels(labels=labels),
        use_cache=False,
    )
    return cross_entropy(output.logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


def _card(unit: Unit, rows: int, trained: Trained) -> str:
    task = unit.task
    early = f" (training was stopped early, after {trained.steps})" if trained.steps < unit.settings.max_steps else ""
    return (
        f"# {unit.model}, fine-tuned on {task.name}\n\n"
        f"A {task.kind} model: `{task.source}` → `{task.target}`, {trained.exported} steps of "
        f"{unit.settings.batch_size} examples out of {rows}{early}. Scores and predictions stand beside this directory.\n"
    )
