"""Which jobs a recipe needs now: what is complete is left out, what is in the queue is waited for.

slurm/submit.sh reads the plan as lines of tab-separated fields, "-" for an empty one:

    skip  KEY
    live  KEY  JOB
    job   KEY  STAGE  NEEDS  ITEMS  RUN  ARGUMENT…

KEY is the artifact's directory below the run (the unit of a job array lies below it), NEEDS the keys that must succeed first,
separated by commas, ITEMS one word for each task of the array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pipeline import lineage
from pipeline.artifacts import Output
from pipeline.corpus.job import resolve as resolve_tokens
from pipeline.corpus.tokens import open_tokens
from pipeline.distillation.job import resolve as resolve_distill
from pipeline.errors import ConfigError
from pipeline.layout import Run
from pipeline.recipe import Recipe
from pipeline.teacher.job import required_teacher
from pipeline.teacher.job import resolve as resolve_cache


@dataclass(frozen=True)
class Job:
    key: str
    stage: str
    needs: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclass
class Plan:
    """Fill it in the order in which data flows: `add` looks at what was added before."""

    #: Job numbers by key: what earlier submissions have in the queue.
    queued: dict[str, str]
    stages: Sequence[str]
    #: What is planned by key, what is complete (with its stage), and what of the queue is waited for (with its number).
    jobs: dict[str, Job] = field(default_factory=dict)
    complete: dict[str, str] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)

    def open(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Those of `keys` that are not complete."""
        return tuple(key for key in keys if key not in self.complete)

    def add(
        self,
        key: str,
        stage: str,
        needs: Sequence[str],
        complete: Callable[[], bool],
        items: Callable[[bool], Sequence[str]] = lambda ready: (),
        arguments: Sequence[str] = (),
    ) -> None:
        """Plan the job that makes `key` unless it is complete, in the queue or planned already.

        complete, items(ready): asked only when what the job needs is there, since before that nothing is known of it;
        `items` otherwise with ready=False.
        """
        if key in self.jobs or key in self.live or key in self.complete:
            return
        needed = self.open(needs)
        if key in self.queued:
            self.live[key] = self.queued[key]
        elif not needed and complete():
            self.complete[key] = stage
        elif stage in self.stages:
            for other in needed:
                if other not in self.jobs and other not in self.live:
                    raise ConfigError(
                        f"{stage} needs {other}, which is not complete: start --from the stage that makes it"
                    )
            self.jobs[key] = Job(key, stage, needed, tuple(items(not needed)), tuple(arguments))

    def lines(self, run: str, arguments: Sequence[str]) -> list[str]:
        lines = [f"skip\t{key}" for key, stage in self.complete.items() if stage in self.stages]
        lines += [f"live\t{key}\t{job}" for key, job in self.live.items()]
        for job in self.jobs.values():
            fields = [
                "job",
                job.key,
                job.stage,
                ",".join(job.needs),
                " ".join(job.items),
                run,
                *arguments,
                *job.arguments,
            ]
            lines.append("\t".join(value or "-" for value in fields))
        return lines


def plan_jobs(
    recipe: Recipe, stages: Sequence[str], queued: dict[str, str], cache_tasks: int
) -> Plan:
    """Plan the jobs of `stages`; raises ConfigError when something they need is neither complete nor being made."""
    plan = Plan(queued, stages)
    from pipeline.distillation.objective import needs_cache

    cached = needs_cache(recipe.distill)
    plan.add("tokens", "tokenize_corpus", (), lambda: resolve_tokens(recipe).is_complete())
    needs = ["tokens"]
    if recipe.teacher is not None:
        needs += _maker(plan, recipe, recipe.teacher.model)
        if cached:
            cache = f"teacher_cache/{recipe.teacher.name}"
            _add_cache(plan, recipe, cache, "cache_teacher", needs, cache_tasks)
            needs.append(cache)
    if "distill" in stages:
        plan.add(
            f"distill/{recipe.distill.name}",
            "distill",
            needs,
            lambda: resolve_distill(recipe).output.complete(),
        )
    # Every recipe has the section; one that says nothing of it wants no assistants.
    if (
        "distill_interpolated" in stages
        and "interpolated" in recipe.model_fields_set
        and recipe.teacher is not None
    ):
        _add_chain(plan, recipe, needs, cache_tasks, cached)
    if "finetune" in stages and recipe.finetune.models and recipe.finetune.tasks:
        add_finetuning(plan, recipe, cache_tasks)
    return plan


def _maker(plan: Plan, recipe: Recipe, model: str) -> list[str]:
    """The key of the job that makes `model` (RUN/<key>/hf) when that is planned or in the queue."""
    try:
        key = Path(model).resolve().relative_to(recipe.root.resolve()).parent.as_posix()
    except ValueError:
        return []
    if key in plan.queued:
        plan.live[key] = plan.queued[key]
    return [key] if key in plan.jobs or key in plan.live else []


def _add_cache(
    plan: Plan,
    recipe: Recipe,
    key: str,
    stage: str,
    needs: Sequence[str],
    tasks: int,
    number: int | None = None,
) -> None:
    def chosen() -> Recipe:
        from pipeline.distillation.links import resolve_link

        return recipe if number is None else resolve_link(recipe, number).recipe

    def items(ready: bool) -> Sequence[str]:
        if not ready:
            return [f"{task}::{tasks}" for task in range(tasks)]
        return split_shards(missing_shards(resolve_cache(chosen()).output, recipe), tasks)

    arguments = () if number is None else ("--link", str(number), "--part", "cache")
    plan.add(key, stage, needs, lambda: resolve_cache(chosen()).output.complete(), items, arguments)


def missing_shards(output: Output, recipe: Recipe) -> list[int]:
    """Shards of a cache that are to be made; shard 0 at least, whose process also writes the tail."""
    count = len(open_tokens(Run(recipe.root), "train").shards)
    missing = output.missing(count)
    wants_tail = "states" in output.payload["settings"]["kinds"]
    if not missing or (wants_tail and not (output.root / "tail" / "config.json").is_file()):
        return sorted({0, *missing})
    return missing


def split_shards(shards: Sequence[int], tasks: int) -> list[str]:
    """Share out shards among at most `tasks` array tasks, each as `--shards` takes them: `0-2,5`."""
    tasks = min(tasks, len(shards))
    bounds = [len(shards) * task // tasks for task in range(tasks + 1)]
    return [_ranges(shards[start:stop]) for start, stop in pairwise(bounds)]


def _ranges(numbers: Sequence[int]) -> str:
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _add_chain(plan: Plan, recipe: Recipe, needs: Sequence[str], tasks: int, cached: bool) -> None:
    from pipeline.distillation.links import link_names, resolve_link

    needs = list(needs)
    if cached:
        # Asked again: --from distill_interpolated leaves the first cache to this stage.
        teacher = required_teacher(recipe)
        cache = f"teacher_cache/{teacher.name}"
        needs = [key for key in needs if key != cache]
        _add_cache(plan, recipe, cache, "distill_interpolated", needs, tasks, 1)
        needs.append(cache)
        first = cache
    for number, name in enumerate(link_names(recipe), 1):
        key = f"distill_interpolated/{name}"
        plan.add(
            key,
            "distill_interpolated",
            needs,
            lambda number=number: resolve_link(recipe, number).complete(),  # type: ignore[misc]
            arguments=("--link", str(number), "--part", "distill"),
        )
        needs = ["tokens", key]
        if cached and number < len(link_names(recipe)):
            cache = f"teacher_cache/{name}"
            _add_cache(plan, recipe, cache, "distill_interpolated", needs, tasks, number + 1)
            needs.append(cache)
            if recipe.interpolated.original_weight != 0.0:
                needs.append(first)


def add_finetuning(plan: Plan, recipe: Recipe, distil_tasks: int) -> None:
    """Plan the units, and for those that a fine-tuned teacher teaches what it labels first, at most `distil_tasks` jobs a task."""
    from pipeline.downstream.finetune import chosen_units
    from pipeline.downstream.unit import distilled

    settings = recipe.finetune
    units, baselines = chosen_units(recipe, settings.tasks, None, None)
    key = f"finetune/{settings.name}"
    pending: dict[bool, list[str]] = {False: [], True: []}
    needs: dict[bool, set[str]] = {False: set(), True: set()}
    for unit in units:
        makers = _maker(plan, recipe, unit.candidate.model)
        if makers or not unit.complete():
            pending[unit.is_taught].append(str(unit))
            needs[unit.is_taught].update(makers)
    own = [*pending[False], *(f"{task.name}/{name}/baseline" for task, name in baselines)]
    own = [word for word in own if word in pending[False] or not _baseline_complete(recipe, word)]
    plan.add(key, "finetune", sorted(needs[False]), lambda: not own, lambda ready: own)
    taught = []
    for task in settings.tasks:
        # The key is the directory above the units, as that of the array before is the one above the tasks.
        items = [
            word.partition("/")[2] for word in pending[True] if word.startswith(f"{task.name}/")
        ]
        before = [key, *sorted(needs[True])]
        if any(settings.data_of(unit.model) != "gold" for unit in units if unit.task == task):
            rows = f"distilled/{settings.name}/{task.name}"
            plan.add(
                rows,
                "finetune",
                [key],
                lambda task=task: distilled(recipe, task).complete(),  # type: ignore[misc]
                lambda ready: [f"{index}::{distil_tasks}" for index in range(distil_tasks)],
            )
            before.append(rows)
        if any(unit.is_taught for unit in units if unit.task == task):
            taught.append(f"{key}/{task.name}")
            plan.add(
                taught[-1],
                "finetune",
                before,
                lambda items=items: not items,
                lambda ready, items=items: items,
            )  # type: ignore[misc]
    report = recipe.root / key / "report.md"
    plan.add(f"{key}/report", "finetune", [key, *taught], report.is_file)


def _baseline_complete(recipe: Recipe, unit: str) -> bool:
    name, baseline, _ = unit.split("/")
    task = next(task for task in recipe.finetune.tasks if task.name == name)
    return lineage.baseline_output(recipe, task, baseline).complete()
