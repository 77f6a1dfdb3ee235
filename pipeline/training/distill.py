"""Stage 3: a student trained on the corpus from cached targets, beside its teacher, or with the LM loss alone; ends with `hf/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from pipeline import lineage
from pipeline.artifacts import Artifact, Output
from pipeline.artifacts.atomic import write_json
from pipeline.console import say
from pipeline.hardware import resolve_dtype
from pipeline.models import open_model
from pipeline.models.architecture import Architecture
from pipeline.objectives import presets
from pipeline.recipe import Distill, Init, Recipe
from pipeline.student.initial import check_init, describe_init, narrower, write_initial_student
from pipeline.student.shapes import describe, student_architecture
from pipeline.teacher.reader import CachedTargets, check_labels, open_tail
from pipeline.teacher.vocabulary import check_vocabulary
from pipeline.training import distributed
from pipeline.training.card import model_card
from pipeline.training.compilation import check_compile, compile_blocks
from pipeline.training.distiller import (
    Distiller,
    Original,
    check_objective,
    looks_at_encoder_blocks,
    teacher_places,
    watched_blocks,
)
from pipeline.training.engine import deepspeed_config, load_model
from pipeline.training.export import export_model
from pipeline.training.loader import Batch
from pipeline.training.loop import SampleFn, Trained, train
from pipeline.training.order import Row, SampleOrder
from pipeline.training.partitioned import teacher_loader
from pipeline.training.rows import TokenSource
from pipeline.training.samples import samples
from pipeline.training.targets import as_scheduled, check_targets, part_weights
from pipeline.training.teachers import CachedTeacher, OnlineTeacher, Teacher
from pipeline.training.validation import first_rows, lm_score, mean_over_rows


def distill(recipe: Recipe, output: Output, label: str) -> Output:
    """Bring `output` (of lineage.distill_output) to completion, resuming where an earlier run stopped.

    Every rank calls it. Raises ConfigError for anything in the recipe that cannot work, before training starts.
    """
    if output.complete():
        return output
    distributed.setup()
    rank = distributed.rank()
    settings = recipe.distill
    train_tokens = lineage.tokens_artifact(recipe, "train")
    validation_tokens = lineage.tokens_artifact(recipe, "validation")
    tokenizer = lineage.tokenizer_directory(recipe)
    targets = _targets(recipe) if "cache" in output.inputs else None
    second = lineage.original_recipe(recipe)
    originals = _targets(second) if second is not None else None
    architecture = _student(recipe, tokenizer)
    _check(recipe, architecture, targets)
    if second is not None:
        _check(second, architecture, originals)
    initial = output.root / "initial"
    if rank == 0:
        output.begin(alone=True)
        if not (initial / "config.json").exists():
            say(f"{label}: {describe(architecture.shape)}")
            teacher = open_model(recipe.teacher.model) if recipe.teacher is not None else None
            init = recipe.student.from_teacher
            write_initial_student(
                architecture,
                init,
                teacher,
                recipe.seed,
                initial,
                batches=lambda: _importance_batches(
                    recipe, init, TokenSource(train_tokens, None, architecture.config)
                ),
                device=distributed.device(),
            )
    distributed.barrier()
    student = load_model(initial, settings)
    reference = _teacher(recipe, targets, train_tokens, student.config.pad_token_id)
    original = None
    if second is not None and settings.original is not None:
        other = _teacher(second, originals, train_tokens, student.config.pad_token_id)
        original = Original(other, as_scheduled(settings.original.weight))
    model = Distiller(student, settings.objective, reference, settings.max_steps, original)
    if settings.compile:
        compile_blocks(student, watched_blocks(settings.objective))
    held_out = TokenSource(validation_tokens, None, student.config)
    rows = first_rows(held_out, settings.validation_rows)
    trained = train(
        model=model,
        settings=settings,
        source=TokenSource(train_tokens, targets, student.config, originals),
        loss=lambda engine, batch, step: engine(batch=batch, step=step),
        out=output.root,
        identity=output.fingerprint,
        seed=recipe.seed,
        label=label,
        validate=lambda engine, step: {"lm_loss": mean_over_rows(engine, held_out, rows, lm_score)},
        sample=_sampler(held_out, rows[: settings.samples], tokenizer, student.config.pad_token_id),
        carried=model,
        cost=model.cost,
    )
    engine, quality = trained.engine, trained.validation
    files = export_model(
        student, output.root / "hf", tokenizer, _card(recipe, output, architecture, trained)
    )
    engine.destroy()
    for side in (reference, original.teacher if original is not None else None):
        if side is not None:
            side.close()
    if rank == 0:
        write_json(output.root / "summary.json", _summary(trained, settings))
        output.finish(
            files=[*files, "summary.json"], provenance={"world_size": distributed.world_size()}
        )
        say(f"{label}: validation LM loss {quality['lm_loss']:.4f}; model in {output.root / 'hf'}")
    distributed.barrier()
    return output


def _sampler(source: TokenSource, rows: list[Row], tokenizer: Path, pad: int) -> SampleFn | None:
    if not rows:
        return None
    words = AutoTokenizer.from_pretrained(tokenizer)
    return lambda engine: samples(engine, source, rows, words, pad)


def _targets(recipe: Recipe) -> CachedTargets | None:
    """The cached targets of the recipe's teacher; None when the teacher itself is to be asked."""
    settings = recipe.distill
    if settings.targets == "online":
        return None
    cache = Artifact(lineage.cache_output(recipe).root, "teacher_cache")
    return CachedTargets(
        cache, settings.targets, encoder_blocks=looks_at_encoder_blocks(settings.objective)
    )


def _teacher(
    recipe: Recipe, targets: CachedTargets | None, tokens: Artifact, pad_token_id: int
) -> Teacher | None:
    """Open the teacher's side of the objective, where it needs more than the cached targets themselves.

    Raises CorruptArtifact when the cached targets are not those of the labels.
    """
    settings, device = recipe.distill, distributed.device()
    if settings.targets == "online" and presets.needs_teacher(part_weights(settings.objective)):
        spec = lineage.required_teacher(recipe)
        # Captured states are not used, but a block must be named: the first.
        return OnlineTeacher(
            teacher_loader(recipe).load(spec, (0, 0)), *teacher_places(settings.objective, -1)
        )
    if targets is not None and targets.kind == "states":
        # Block 0 of the tail is the block at the cut.
        tail = open_tail(targets.cache, device, *teacher_places(settings.objective, 0))
        check_labels(tokens, targets, 0, pad_token_id, tail)
        replays = (
            looks_at_encoder_blocks(settings.objective)
            or not targets.settings.states.encoder_output
        )
        return CachedTeacher(tail, targets.settings.states, replays_encoder=replays)
    if targets is not None:
        check_labels(tokens, targets, 0, pad_token_id, None)
    return None


def _student(recipe: Recipe, tokenizer: Path) -> Architecture:
    vocabulary = len(AutoTokenizer.from_pretrained(tokenizer))
    if recipe.teacher is None:
        return student_architecture(recipe.student, None, vocabulary)
    directory = open_model(recipe.teacher.model)
    teacher = directory.architecture
    check_vocabulary(recipe.teacher.model, directory.path, teacher.vocab_size, tokenizer)
    return student_architecture(recipe.student, teacher, vocabulary)


def _check(recipe: Recipe, student: Architecture, targets: CachedTargets | None) -> None:
    """Raise ConfigError for what would fail later, before anything is written."""
    settings = recipe.distill
    student.check_dtype(resolve_dtype(settings.dtype), "distill.dtype")
    student.check_length(recipe.tokens.input_length, "tokens.input_length")
    deepspeed_config(settings)
    check_compile(settings)
    if targets is not None:
        check_targets(settings, targets.settings)
    elif presets.needs_teacher(part_weights(settings.objective)):
        spec = lineage.required_teacher(recipe)
        teacher = open_model(spec.model).architecture
        teacher.check_dtype(resolve_dtype(spec.dtype), "teacher.dtype")
        check_objective(settings.objective, student.shape, teacher.shape)
    if targets is not None and targets.kind == "states":
        seen = AutoConfig.from_pretrained(targets.cache.root / "tail")
        check_objective(settings.objective, student.shape, student.family.shape(seen))
    if recipe.student.from_teacher is not None:
        teacher = open_model(lineage.required_teacher(recipe).model).architecture
        check_init(recipe.student.from_teacher, student.shape, teacher.shape)


def _summary(trained: Trained, settings: Distill) -> dict[str, Any]:
    summary: dict[str, Any] = {"validation": trained.validation, "steps": trained.steps}
    if settings.patience is not None:
        summary |= {
            "max_steps": settings.max_steps,
            "stopped_early": trained.steps < settings.max_steps,
        }
    if settings.export == "best":
        summary |= {"exported_step": trained.exported}
    return summary


def _importance_batches(recipe: Recipe, init: Init | None, source: TokenSource) -> list[Batch]:
    """The rows on which the importance of the teacher's units is estimated: the first a training run of this seed would see."""
    assert init is not None
    rows = SampleOrder(source.shard_rows, init.importance_rows, recipe.seed).batch(0)
    size = init.importance_batch
    return [source.read(rows[start : start + size]) for start in range(0, len(rows), size)]


def _card(recipe: Recipe, output: Output, student: Architecture, trained: Trained) -> str:
    shape, cut = student.shape, False
    if recipe.student.from_teacher is not None:
        teacher = open_model(lineage.required_teacher(recipe).model).architecture
        cut = narrower(shape, teacher.shape)
    return model_card(
        recipe,
        output,
        shape=shape,
        initial=describe_init(recipe.student.from_teacher, cut),
        steps=trained.exported,
        validation=trained.validation,
    )
