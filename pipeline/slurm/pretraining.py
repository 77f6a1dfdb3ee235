"""Jobs of the stages before fine-tuning: tokens, caches, students and chains of assistants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.corpus.job import resolve as resolve_tokens
from pipeline.distillation.job import resolve as resolve_distill
from pipeline.distillation.links import Link, link_names, resolve_link
from pipeline.layout import Run
from pipeline.recipe import Recipe
from pipeline.slurm.jobs import Job, Plan
from pipeline.slurm.shards import every_nth, missing_shards, split_shards
from pipeline.teacher.job import CacheJob, required_teacher
from pipeline.teacher.job import resolve as resolve_cache


def add_tokens(plan: Plan, recipe: Recipe) -> None:
    plan.add(Job("tokens", "tokenize_corpus"), lambda: resolve_tokens(recipe).is_complete())


def maker_of(plan: Plan, run: Run, model: str) -> str | None:
    """Return the key of the planned or queued job that makes `model` (RUN/<key>/hf), if any."""
    try:
        key = Path(model).resolve().relative_to(run.root.resolve()).parent.as_posix()
    except ValueError:  # outside the run
        return None
    return key if plan.wait_for(key) else None


def add_teacher_cache(plan: Plan, recipe: Recipe, needs: Sequence[str], tasks: int) -> str:
    """Plan the cache of the recipe's teacher, by at most `tasks` array tasks; return its key."""
    key = f"teacher_cache/{required_teacher(recipe).name}"
    job = Job(key, "cache_teacher", tuple(needs))
    _add_cache(plan, job, lambda: resolve_cache(recipe), tasks)
    return key


def add_distillation(plan: Plan, recipe: Recipe, needs: Sequence[str]) -> None:
    job = Job(f"distill/{recipe.distill.name}", "distill", tuple(needs))
    plan.add(job, lambda: resolve_distill(recipe).output.complete())


def add_chain(
    plan: Plan, recipe: Recipe, inputs: Sequence[str], tasks: int, *, cached: bool
) -> None:
    """Plan every link: its teacher's cache, if `cached`, and its distillation.

    inputs: keys that the first link needs, without a cache.
    tasks: array tasks of a cache at most.
    """
    # Where the stages begin with distill_interpolated, it makes the first teacher's cache too.
    teacher, needs = required_teacher(recipe).name, list(inputs)
    original: list[str] = []
    for number, name in enumerate(link_names(recipe), 1):
        link = partial(resolve_link, recipe, number)
        if cached:
            cache = f"teacher_cache/{teacher}"
            _add_link_cache(plan, link, number, cache, needs, tasks)
            needs += [cache, *original]
            if not original and recipe.interpolated.original_weight != 0.0:
                original = [cache]
        key = f"distill_interpolated/{name}"
        _add_link(plan, link, number, key, needs)
        teacher, needs = name, ["tokens", key]


def _add_link(
    plan: Plan, link: Callable[[], Link], number: int, key: str, needs: Sequence[str]
) -> None:
    """Plan the distillation of a link. link: returns it, once its teacher is there."""
    arguments = ("--link", str(number), "--part", "distill")
    job = Job(key, "distill_interpolated", tuple(needs), arguments=arguments)
    plan.add(job, lambda: link().complete())


def _add_link_cache(
    plan: Plan,
    link: Callable[[], Link],
    number: int,
    key: str,
    needs: Sequence[str],
    tasks: int,
) -> None:
    arguments = ("--link", str(number), "--part", "cache")
    job = Job(key, "distill_interpolated", tuple(needs), arguments=arguments)
    _add_cache(plan, job, lambda: link().teacher_cache(), tasks)


def _add_cache(plan: Plan, job: Job, cache: Callable[[], CacheJob], tasks: int) -> None:
    """Plan an array over the shards that are missing.

    cache: returns what is cached, once everything it needs is there.
    """

    def is_complete() -> bool:
        return cache().output.complete()

    if not plan.must_make(job, is_complete):
        return
    if plan.incomplete(job.needs):
        items = every_nth(tasks)
    else:
        missing = missing_shards(cache())
        items = split_shards(missing, tasks)
    plan.submit(replace(job, items=items, resources_of="cache_teacher"))
