"""`miniend plan`: what a recipe will make and cost, before anything runs.

Nothing is written, and no weights are loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.console import quiet_libraries, say
from pipeline.errors import ConfigError
from pipeline.layout import Run
from pipeline.recipe import load_recipe

if TYPE_CHECKING:
    from pipeline.planning.estimate import LinkEstimate
    from pipeline.planning.figures import Plan, PlannedLink

_MULTIPLES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15}


def show_plan(
    path: str,
    overrides: Sequence[str],
    *,
    gpus: int,
    gpu: str,
    mfu: float,
    tokens: str | None,
    room: str | None,
    as_json: bool,
) -> None:
    """Print the plan of a recipe; see make_plan."""
    quiet_libraries()
    plan = make_plan(path, overrides, gpus=gpus, gpu=gpu, mfu=mfu, tokens=tokens, room=room)
    from pipeline.planning import figures, plan_table

    if as_json:
        say(json.dumps(figures.as_json(plan), indent=2))
        return
    for line in plan_table.lines(plan):
        say(line)


def make_plan(
    path: str,
    overrides: Sequence[str] = (),
    *,
    gpus: int = 8,
    gpu: str = "h100",
    mfu: float = 0.4,
    tokens: str | None = None,
    room: str | None = None,
) -> Plan:
    """Return the plan of a recipe; raises ConfigError for what cannot be planned.

    tokens: the size of the corpus, a number such as 10B; None for the finished RUN/tokens.
    room: bytes for caches, a number such as 50T; None for the free space where the run will be.
    """
    if gpus < 1 or not 0 < mfu <= 1:
        raise ConfigError("--gpus is at least 1, and --mfu above 0 and at most 1")
    recipe = load_recipe(path, overrides)
    from pipeline.planning.assumptions import PlanAssumptions
    from pipeline.planning.chain import plan_chain
    from pipeline.planning.corpus_rows import rows_of
    from pipeline.planning.estimate import estimates
    from pipeline.planning.figures import Plan, PlannedModel
    from pipeline.planning.settings import PlannedSettings

    count = _number(tokens, "--tokens") if tokens is not None else None
    rows = rows_of(Run(recipe.root), recipe.tokens, count)
    disk = _number(room, "--disk") if room is not None else _free_bytes(recipe.root)
    assumed = PlanAssumptions.of(gpu, gpus, mfu, disk)
    chain = plan_chain(recipe)
    every = estimates(PlannedSettings.of(recipe), chain, rows, assumed)
    teacher = chain.direct.teacher
    return Plan(
        recipe=path,
        assumed=assumed,
        teacher=PlannedModel.of(teacher) if teacher is not None else None,
        teacher_source=chain.source,
        rows=rows,
        objective=recipe.distill.objective.preset,
        deepspeed=recipe.distill.deepspeed,
        batch_size=recipe.distill.batch_size,
        links=[_plan_link(estimate, every) for estimate in every],
    )


def _plan_link(estimate: LinkEstimate, every: Sequence[LinkEstimate]) -> PlannedLink:
    from pipeline.planning.advice import advise, consequences, misfits
    from pipeline.planning.estimate import readers
    from pipeline.planning.figures import PlannedLink, PlannedModel

    link, settings, advice = estimate.link, estimate.settings.distill, advise(estimate)
    kind, is_cached = advice.kind, advice.kind not in ("none", "online")
    memory = estimate.memory(kind)
    checkpointed = memory
    if not settings.activation_checkpointing:
        checkpointed = estimate.memory(kind, checkpointing=True)
    caching_bytes = estimate.caching_memory(kind) if is_cached else None
    return PlannedLink(
        key=link.key,
        shares_cache_with=readers(every, estimate)[0].link.key if estimate.compares else None,
        teacher=link.teacher.name if link.teacher is not None else None,
        student=PlannedModel.of(link.student),
        capacity_ratio=link.capacity_ratio,
        steps=link.steps,
        rows_seen=estimate.samples,
        targets=estimate.caches,
        recommended=kind,
        why=advice.why,
        follows=consequences(every, estimate, kind),
        operations_per_step=estimate.step_operations(kind) * settings.batch_size,
        training_gpu_hours=estimate.training_hours(kind),
        online_gpu_hours=estimate.training_hours("online"),
        caching_gpu_hours=estimate.caching_hours(kind) if is_cached else 0.0,
        caching_bytes=caching_bytes,
        micro_batch_size=estimate.micro_batch,
        memory=memory,
        memory_with_checkpointing=checkpointed,
        does_not_fit=misfits(estimate, kind, memory.peak, caching_bytes),
    )


def _number(text: str, flag: str) -> float:
    """Read a number such as 300M, 10B or 1T; of bytes (--disk), B is the unit."""
    body = text.strip().upper()
    if flag == "--disk":
        body = body.removesuffix("B")
    multiple = ""
    if body and body[-1] in _MULTIPLES:
        body, multiple = body[:-1], body[-1]
    try:
        value = float(body) * _MULTIPLES[multiple]
    except ValueError:
        raise ConfigError(f"{flag} {text}: write a number such as 300M, 10B or 1T") from None
    if not 0 < value < float("inf"):
        raise ConfigError(f"{flag} {text}: give more than nothing")
    return value


def _free_bytes(path: Path) -> float:
    """Return the free bytes of the disk on which `path` is or will be."""
    while not path.exists():
        path = path.parent
    return float(shutil.disk_usage(path).free)
