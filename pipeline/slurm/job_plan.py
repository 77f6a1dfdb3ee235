"""`miniend slurm-plan`: which jobs a recipe needs now, as lines for slurm/submit.sh.

Each line is NAME=VALUE, since bash reads no JSON. A value reaches to the end of its line and is
never evaluated.

    run=RUN                the directory of the run
    complete=KEY           nothing to do
    queued=KEY             an earlier submission makes it…
    number=NUMBER          …and this is its job
    job=KEY                a job to submit, with these fields of `Job`:
    stage=STAGE
    resources=STAGE
    need=KEY               once for each
    item=WORD              once for each
    argument=WORD          once for each
    submit=KEY             the job's last line
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.console import say
from pipeline.distillation.objective import needs_cache
from pipeline.errors import ConfigError
from pipeline.layout import Run
from pipeline.recipe import Recipe, load_recipe
from pipeline.slurm import queue, records
from pipeline.slurm.jobs import STAGES, Job, Plan
from pipeline.slurm.pretraining import (
    add_chain,
    add_distillation,
    add_teacher_cache,
    add_tokens,
    maker_of,
)


def print_plan(
    recipe_file: str, overrides: Sequence[str], *, first: str, last: str, cache_tasks: int
) -> None:
    """Print the plan of the stages `first` to `last`.

    cache_tasks: array tasks that share the shards of a cache at most.
    Raises ConfigError when Slurm does not answer, or as `plan_jobs` does.
    """
    stages = STAGES[STAGES.index(first) : STAGES.index(last) + 1]
    if not stages:
        raise ConfigError(f"--from {first} comes after --until {last}")
    recipe = load_recipe(recipe_file, overrides)
    plan = plan_jobs(recipe, stages, _queued_jobs(Run(recipe.root)), cache_tasks)
    for line in plan_lines(plan, recipe.run, ["--recipe", recipe_file, *overrides]):
        say(line)


def plan_jobs(
    recipe: Recipe, stages: Sequence[str], queued: Mapping[str, str], cache_tasks: int
) -> Plan:
    """Plan the jobs of `stages`. queued: numbers of the jobs in the queue, by key.

    Raises ConfigError when something they need is neither complete nor being made.
    """
    plan = Plan(queued, stages)
    cached = needs_cache(recipe.distill)
    add_tokens(plan, recipe)
    inputs = ["tokens"]
    needs = inputs
    if recipe.teacher is not None:
        maker = maker_of(plan, Run(recipe.root), recipe.teacher.model)
        inputs = inputs if maker is None else [*inputs, maker]
        needs = inputs
        if cached:
            needs = [*inputs, add_teacher_cache(plan, recipe, inputs, cache_tasks)]
    if "distill" in stages:
        add_distillation(plan, recipe, needs)
    # Every recipe has the section `interpolated`; a recipe that does not write it wants no chain.
    has_chain = "interpolated" in recipe.model_fields_set and recipe.teacher is not None
    if "distill_interpolated" in stages and has_chain:
        add_chain(plan, recipe, inputs, cache_tasks, cached=cached)
    if "finetune" in stages and recipe.finetune.models and recipe.finetune.tasks:
        from pipeline.slurm.finetuning import add_finetuning

        add_finetuning(plan, recipe, cache_tasks)
    return plan


def plan_lines(plan: Plan, run: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the plan. arguments: the recipe and overrides, for every stage.

    Raises ConfigError when a value has more than one line.
    """
    for name, value in _fields(plan, run, arguments):
        if "\n" in value:
            raise ConfigError(f"{value!r} has a line break: write it on one line")
        yield f"{name}={value}"


def _fields(plan: Plan, run: str, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield "run", run
    for key, stage in plan.complete.items():
        if stage in plan.stages:
            yield "complete", key
    for key, number in plan.live.items():
        yield "queued", key
        yield "number", number
    for job in plan.jobs.values():
        yield from _job_fields(job, arguments)


def _job_fields(job: Job, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield "job", job.key
    yield "stage", job.stage
    yield "resources", job.resources_of or job.stage
    for need in job.needs:
        yield "need", need
    for item in job.items:
        yield "item", item
    for argument in (*arguments, *job.arguments):
        yield "argument", argument
    yield "submit", job.key


def _queued_jobs(run: Run) -> dict[str, str]:
    """Return {key: job number} of earlier submissions that are still in the queue."""
    submitted = records.submitted_keys(run.root / "logs")
    known = queue.known_jobs(submitted.values())
    if known is None:
        raise ConfigError(
            "squeue does not answer, so what was submitted before may still be running: "
            "try again later"
        )
    alive = {job.array for job in known.values() if job.live}
    return {key: number for key, number in submitted.items() if number in alive}
