"""Run the jobs of a comparison: fine-tune every model on every task, and score it.

All jobs run in one process, since starting DeepSpeed costs 8–15 s. A unit's scores are those of the
weights in its `hf/`, read back from disk: a run killed after the export gives the same predictions
as one left alone. Jobs that learn from the fine-tuned teacher come last; the teacher labels their
rows in between.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Mapping

from pipeline import ranks
from pipeline.console import say
from pipeline.downstream.baselines import make_baseline
from pipeline.downstream.comparison import Comparison
from pipeline.downstream.encode import encode, encode_labels, say_once
from pipeline.downstream.job import FineTuneJob
from pipeline.downstream.tasks import Examples, TaskData, load_task
from pipeline.downstream.timing import time_models
from pipeline.downstream.unit_record import ModelOrigin, overlap, write_unit
from pipeline.errors import ConfigError
from pipeline.ranks import environment_rank


def run_jobs(comparison: Comparison, selected: Comparison, *, timed: bool = True) -> None:
    """Make every selected unit that is not finished; every rank calls it.

    Then time the models of each task whose units are all finished, unless `timed` is false.
    Raises ConfigError or DataError before anything is written when a model, a task's rows or its
    labels are at fault.
    """
    total = len(selected.jobs) + len(selected.baselines)
    if total == 0:
        raise ConfigError(
            "nothing to fine-tune: the recipe needs finetune.models and finetune.tasks"
        )
    baselines = [job for job in selected.baselines if not job.complete()]
    pending = [job for job in selected.jobs if not job.complete()]
    finished = total - len(pending) - len(baselines)
    say_once(f"finetune: {finished} of {total} units are finished")
    if pending or baselines:
        names = {job.task.name for job in pending} | {job.task.name for job in baselines}
        rows = comparison.validation_rows
        data = {t.name: load_task(t.task, rows) for t in selected.tasks if t.name in names}
        _check(pending, data)
        if environment_rank()[0] == 0:
            for baseline in baselines:
                make_baseline(baseline, data[baseline.task.name])
        for job in sorted(pending, key=lambda job: job.is_taught):
            _make_unit(job, data[job.task.name])
    if timed and environment_rank()[0] == 0:
        time_models(comparison)


def run_labelling(comparison: Comparison, task: str, shards: str | None) -> None:
    """Make RUN/distilled/<name>/<task>, or some of its shards, alone; every rank calls it.

    shards: as `--shards` takes them (`3,7-9`, `1::4`).
    Raises IncompleteArtifact while the teacher is not fine-tuned.
    """
    teacher = comparison.teacher_of(task)
    if teacher.labelled.complete():
        say_once(f"distilled {task}: up to date")
        return
    data = load_task(teacher.task, comparison.validation_rows)
    from pipeline.downstream.teacher_signal import label_rows
    from pipeline.training import distributed

    distributed.setup()
    label_rows(teacher, data, shards)


def _make_unit(job: FineTuneJob, data: TaskData) -> None:
    """Fine-tune and score one model unless its unit is finished; after `distributed.setup()`."""
    from pipeline.downstream.fine_tuning import fine_tune
    from pipeline.downstream.teacher_signal import label_rows, training_examples

    if job.signal is not None and job.signal.data != "gold":
        label_rows(job.signal.teacher, data)
    if job.output.complete():
        return
    ranks.barrier()  # every rank has seen the same directory before rank 0 writes to it
    if ranks.rank() == 0:
        job.output.begin(alone=True)
    ranks.barrier()
    examples = training_examples(job, data)
    if not (job.hf / "config.json").is_file():
        fine_tune(job, data, examples)
        _release_memory()
    files, scores = evaluate_unit(job, data, examples)
    _release_memory()
    if ranks.rank() == 0:
        _finish(job, files)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        say(f"{job}: {shown} on {len(data.test)} rows")
    ranks.barrier()


def evaluate_unit(
    job: FineTuneJob, data: TaskData, examples: Examples
) -> tuple[list[str], dict[str, float]]:
    """Predict the test rows with hf/; rank 0 writes the unit's files and returns their names.

    Also returns the scores. examples: those it was trained on. Other ranks return nothing.
    """
    from pipeline.downstream.predict import load_fine_tuned, predict

    tokenizer, tests = job.model.directory.tokenizer, data.tests()
    model = load_fine_tuned(job.hf, job.settings.dtype)
    encoded = {prefix: encode(tokenizer, part, job.task) for prefix, part in tests.items()}
    predictions = {
        prefix: predict(model, tokenizer, data, part, encoded[prefix])
        for prefix, part in tests.items()
    }
    if ranks.rank() != 0:
        return [], {}
    trained = json.loads((job.root / "trained.json").read_text(encoding="utf-8"))
    files, scores = write_unit(
        job.root,
        ModelOrigin(
            model=job.model.name,
            seed=job.seed,
            learning_rate=job.learning_rate,
            data=job.data,
            teacher=job.signal.teacher.name if job.signal is not None else None,
            steps=trained["steps"],
        ),
        data,
        predictions,
        train=examples,
        validation=trained["validation"],
        cut={"sources": encoded[""].cut_sources, "targets": encoded[""].cut_targets},
        resamples=job.settings.resamples,
    )
    return [*files, "trained.json"], scores


def _finish(job: FineTuneJob, files: list[str]) -> None:

    weights = [str(path.relative_to(job.root)) for path in job.hf.rglob("*") if path.is_file()]
    provenance = {"world_size": ranks.world_size()}
    job.output.finish(files=[*weights, *files], provenance=provenance)
    # Several times the size of the model, and of no use any more.
    shutil.rmtree(job.root / "checkpoints", ignore_errors=True)


def _check(pending: list[FineTuneJob], data: Mapping[str, TaskData]) -> None:
    """Find mistakes before the first file is written, then join the process group."""
    for job in pending:
        tokenizer = job.model.directory.tokenizer
        if data[job.task.name].labels is not None:
            encode_labels(tokenizer, data[job.task.name])
    for job in pending:
        if job.signal is None:
            continue
        teacher = job.signal.teacher
        if any(not one.complete() and one not in pending for one in teacher.jobs):
            raise ConfigError(
                f"{job} learns from {teacher.name}, which is not fine-tuned: "
                "name it in --models, too"
            )
    if pending:
        from pipeline.training import distributed
        from pipeline.training.compilation import check_compile
        from pipeline.training.configuration import deepspeed_config

        distributed.setup()
        for job in pending:
            deepspeed_config(job.settings, ranks.world_size())
            check_compile(job.settings)
    for of_task in data.values():
        _report_odd_rows(of_task)


def _report_odd_rows(data: TaskData) -> None:
    """Print a line for everything odd about the rows of a task, once."""
    name = data.task.name
    for part in (data.train, data.validation, data.test, *data.more_tests.values()):
        if part.empty + part.dropped:
            say_once(
                f"task {name}: rows left out of {part.origin}: "
                f"{part.empty} empty, {part.dropped} dropped"
            )
    for what, part in (("training", data.train), ("test", data.test)):
        if part.duplicated:
            say_once(
                f"task {name}: {part.duplicated} {what} rows of {part.origin} occur more than "
                "once; they are kept"
            )
    for pair, count in overlap(data).items():
        if count:
            other = {"train_test": "training", "validation_test": "validation"}[pair]
            say_once(
                f"task {name}: {count} of {len(data.test)} test rows are also among the "
                f"{other} rows"
            )


def _release_memory() -> None:
    """Give back the memory of the last model before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
