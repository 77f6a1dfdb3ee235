"""Which kind of target a link should be trained on, what does not fit, and what the size of the corpus changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.distillation.objective import check_targets
from pipeline.errors import ConfigError
from pipeline.planning.estimate import LinkEstimate, readers

#: Allocators fragment and libraries keep workspaces: more than this share of a device cannot be planned with.
USABLE = 0.9
#: A cache should be finished within a day: that is how wide its job array must be.
WANTED_HOURS = 24.0


@dataclass(frozen=True)
class Advice:
    #: One of disk.KINDS, `online`, or `none` where nothing is compared with a teacher.
    kind: str
    why: str


def advise(estimate: LinkEstimate) -> Advice:
    """The first of states, int8 states, sampled and top-k targets that serves the objective and fits on the disk, else `online`."""
    if not estimate.compares:
        return Advice("none", "the objective compares with no teacher: nothing is cached")
    room = estimate.assumed.disk
    refused: dict[str, str] = {}
    for kind in estimate.kinds.values():
        reason = _cannot_serve(estimate, kind.name)
        if reason is None and kind.total > room:
            reason = f"would take {size(kind.total)}"
        if reason is None:
            return Advice(
                kind.name,
                "; ".join(
                    [_praise(kind.name), *(f"{name} {why}" for name, why in refused.items())]
                ),
            )
        refused[kind.name] = reason
    reasons = "; ".join(f"{name} {why}" for name, why in refused.items())
    more = estimate.step_operations("online") / estimate.step_operations("sampled")
    return Advice(
        "online",
        f"no cache fits: {reasons}. The teacher beside the student makes a step {more:.1f} times as long",
    )


def follows(every: Sequence[LinkEstimate], one: LinkEstimate, kind: str) -> list[str]:
    """What the size of the corpus means for the cache of one link's teacher, in sentences."""
    if kind == "none":
        return []
    rows, sharing = one.rows.rows, readers(every, one)
    reads = sum(link.samples for link in sharing) / rows
    longest = max(link.samples for link in sharing) / rows
    found = []
    if longest > 1.5:
        views = min(math.ceil(longest * one.recipe.tokens.views), 10 * one.recipe.tokens.views)
        found.append(
            f"a student sees each row {longest:.1f} times: tokens.views={views} gives it new corruptions of the same text instead, for "
            f"{views / one.recipe.tokens.views:.3g} times the disk and caching"
        )
    elif longest < 0.95:
        found.append(
            f"a student reads {longest:.1%} of the rows: the rest of the text need not be tokenised or cached (one view is enough), "
            "or raise distill.max_steps"
        )
    second = (
        one.link.key.startswith("distill_interpolated/")
        and one.link.teacher is not every[0].link.teacher
    )
    if second and one.recipe.interpolated.original_weight != 0.0:
        found.append(
            "what interpolated.original_weight adds to reading, operations and memory here is not counted"
        )
    if kind != "online":
        if reads <= 1.2:
            found.append(
                f"all students together read a cached row {reads:.2g} times, so the cache saves no pass of the teacher; "
                "distill.targets=online needs no disk"
            )
        hours = one.caching_hours(kind)
        width = max(1, math.ceil(hours / WANTED_HOURS))
        if one.rows.shards is not None:
            width = min(width, one.rows.shards)
        found.append(f"CACHE_TASKS={width} tasks of one GPU cache it in {hours / width:,.1f} hours")
    return found


def misfits(estimate: LinkEstimate, kind: str, peak: float, caching: float | None) -> list[str]:
    """What cannot work as the recipe has it, each with its mend."""
    found = []
    assumed, settings = estimate.assumed, estimate.recipe.distill
    if settings.batch_size % (estimate.micro_batch * assumed.gpus):
        found.append(
            f"distill.batch_size {settings.batch_size} is not a multiple of micro_batch_size {estimate.micro_batch} × {assumed.gpus} GPUs"
        )
    room = USABLE * assumed.device.memory
    if peak > room:
        found.append(
            f"{size(peak)} a rank is more than {USABLE:.0%} of an {assumed.gpu}'s {size(assumed.device.memory)}: lower "
            "distill.micro_batch_size, take more GPUs, or ds_configs/zero3_offload.json"
        )
    if caching is not None and caching > room:
        found.append(
            f"caching takes {size(caching)} a process: lower cache.batch_size, or teacher.deepspeed=ds_configs/zero3_inference.json"
        )
    own = settings.targets
    if estimate.compares and own != "online" and kind != "none":
        reason = _cannot_serve(estimate, own)
        if reason is not None:
            found.append(f"distill.targets {own} {reason}")
        taken = sum(_own_bytes(estimate, name) for name in estimate.recipe.cache.kinds)
        if taken > assumed.disk:
            found.append(
                f"the cache as the recipe has it takes {size(taken)}, and there are {size(assumed.disk)}"
            )
    return found


def _own_bytes(estimate: LinkEstimate, name: str) -> float:
    int8 = name == "states" and estimate.recipe.cache.states.dtype == "int8"
    return estimate.kinds["states int8" if int8 else name].total


def _cannot_serve(estimate: LinkEstimate, kind: str) -> str | None:
    """Why the objective cannot be served by this kind; None when it can."""
    settings, name = estimate.recipe.distill, kind.split()[0]
    try:
        check_targets(settings.model_copy(update={"targets": name}), estimate.recipe.cache)
    except ConfigError:
        return f"cannot serve the objective {settings.objective.preset}"
    return None


def _praise(kind: str) -> str:
    return {
        "states": "exact, and serves every objective",
        "states int8": "serves every objective at half the bytes, with a KL near 1e-4",
        "sampled": "unbiased, and the fewest bytes",
        "topk": "biased, but few bytes",
    }[kind]


def size(count: float) -> str:
    """Bytes for people, in decimal units as disks are sold."""
    if count == float("inf"):
        return "unlimited"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 999.5 or unit == "PB":
            return f"{count:.3g} {unit}" if count < 999.5 else f"{count:,.0f} {unit}"
        count /= 1000
    raise AssertionError
