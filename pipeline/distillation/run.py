"""Stage 3: a student trained on the corpus: from cached targets, with its teacher, or alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import ranks
from pipeline.artifacts import Output
from pipeline.artifacts.atomic import write_json
from pipeline.console import say
from pipeline.distillation.card import model_card
from pipeline.distillation.distillation_task import Distillation
from pipeline.distillation.distiller import Distiller
from pipeline.distillation.job import DistillJob
from pipeline.distillation.objective import check_targets
from pipeline.distillation.places import check_objective, watched_blocks
from pipeline.distillation.sides import Side, open_side, open_targets
from pipeline.distillation.token_source import TokenSource
from pipeline.hardware import resolve_dtype
from pipeline.models import ModelDirectory
from pipeline.recipe import Distill
from pipeline.student.initial import check_init, describe_init, narrower, write_initial_student
from pipeline.student.shapes import describe
from pipeline.teacher.cached_targets import CachedTargets
from pipeline.teacher.tail import tail_architecture
from pipeline.teacher.vocabulary import check_vocabulary
from pipeline.training import distributed
from pipeline.training.compilation import check_compile, compile_blocks
from pipeline.training.configuration import deepspeed_config
from pipeline.training.engine import load_model
from pipeline.training.export import export_model
from pipeline.training.loader import Batch
from pipeline.training.loop import Destination, Trained, train
from pipeline.training.order import SampleOrder


def distill(job: DistillJob) -> Output:
    """Complete job.output, resuming where an earlier run stopped; `hf/` is written last.

    Every rank calls it. Raises ConfigError before training starts for anything in the recipe that
    cannot work.
    """
    output, settings = job.output, job.settings
    if output.complete():
        return output
    distributed.setup()
    sides_from_cache = job.sides if job.cached else ()
    targets = {side.prefix: open_targets(side.cache, settings) for side in sides_from_cache}
    _check(job, targets)
    student = load_model(_initial_student(job), settings)
    objective, device = settings.objective, ranks.device()
    sides = [
        open_side(s.prefix, s.share, s.cache, targets.get(s.prefix), objective, device)
        for s in job.sides
    ]
    model = Distiller(student, objective, sides, settings.max_steps)
    if settings.compile:
        compile_blocks(student, watched_blocks(objective))
    task = Distillation(
        job.label,
        model,
        TokenSource(job.validation, job.student),
        settings,
        job.tokenizer.tokenizer,
        job.student.pad_token_id,
    )
    source = TokenSource(job.train, job.student, targets)
    order = SampleOrder(source.shard_rows, settings.batch_size, job.seed)
    destination = Destination(output.root, output.fingerprint, job.seed)
    trained = train(model, task, source, order, settings, destination)
    _finish(job, sides, trained)
    return output


def _finish(job: DistillJob, sides: list[Side], trained: Trained) -> None:
    """Export the student and write the manifest."""
    output = job.output
    student = trained.engine.module.student
    files = export_model(student, output.root / "hf", job.tokenizer.path, _card(job, trained))
    trained.engine.destroy()
    for side in sides:
        if side.teacher is not None:
            side.teacher.close()
    if ranks.rank() == 0:
        write_json(output.root / "summary.json", _summary(trained, job.settings))
        world = ranks.world_size()
        output.finish(files=[*files, "summary.json"], provenance={"world_size": world})
        loss = trained.validation["lm_loss"]
        say(f"{job.label}: validation LM loss {loss:.4f}; model in {output.root / 'hf'}")
    ranks.barrier()


def _check(job: DistillJob, targets: dict[str, CachedTargets]) -> None:
    """Raise ConfigError early, before anything is written, for settings that cannot work."""
    settings = job.settings
    if job.teacher is not None:
        check_vocabulary(job.teacher, job.tokenizer)
    student = job.student
    student.check_dtype(resolve_dtype(settings.dtype), "distill.dtype")
    student.check_length(job.input_length, "tokens.input_length")
    deepspeed_config(settings, ranks.world_size())
    check_compile(settings)
    for side in job.sides:
        cached = targets.get(side.prefix)
        if cached is not None:
            check_targets(settings, cached.settings)
            if cached.kind == "states":
                tail_shape = tail_architecture(cached.cache).shape
                check_objective(settings.objective, student.shape, tail_shape)
        else:
            teacher = side.cache.teacher.architecture
            teacher.check_dtype(side.cache.dtype, "teacher.dtype")
            check_objective(settings.objective, student.shape, teacher.shape)
    if job.init is not None and job.teacher is not None:
        check_init(job.init, student.shape, job.teacher.architecture.shape)


def _initial_student(job: DistillJob) -> ModelDirectory:
    """Return the student's first weights; rank 0 makes them if they do not exist yet."""
    directory = job.output.root / "initial"
    if ranks.rank() == 0:
        job.output.begin(alone=True)
        if not (directory / "config.json").exists():
            say(f"{job.label}: {describe(job.student.shape)}")
            _write_initial(job, directory)
    ranks.barrier()
    return ModelDirectory(str(directory), directory)


def _write_initial(job: DistillJob, directory: Path) -> None:
    write_initial_student(
        job.student,
        job.init,
        job.teacher,
        job.seed,
        directory,
        batches=lambda: _importance_batches(job),
        device=ranks.device(),
    )


def _importance_batches(job: DistillJob) -> list[Batch]:
    """Return the rows on which the importance of the teacher's units is estimated.

    They are the first rows that a training run with this seed sees.
    """
    init = job.init
    assert init is not None
    source = TokenSource(job.train, job.student)
    rows = SampleOrder(source.shard_rows, init.importance_rows, job.seed).batch(0)
    size = init.importance_batch
    return [source.read(rows[start : start + size]) for start in range(0, len(rows), size)]


def _summary(trained: Trained, settings: Distill) -> dict[str, Any]:
    summary: dict[str, Any] = {"validation": trained.validation, "steps": trained.steps}
    if settings.patience is not None:
        stopped = trained.steps < settings.max_steps
        summary |= {"max_steps": settings.max_steps, "stopped_early": stopped}
    if settings.export == "best":
        summary |= {"exported_step": trained.exported}
    return summary


def _card(job: DistillJob, trained: Trained) -> str:
    shape = job.student.shape
    cut = False
    if job.init is not None and job.teacher is not None:
        cut = narrower(shape, job.teacher.architecture.shape)
    return model_card(
        job.recipe,
        job.output,
        shape=shape,
        initial=describe_init(job.init, cut),
        steps=trained.exported,
        validation=trained.validation,
    )
