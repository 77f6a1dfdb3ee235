"""The kind of target a link should be trained on, and what follows from it.

What follows is what does not fit, and what the size of the corpus means for the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.distillation.objective import check_targets
from pipeline.errors import ConfigError
from pipeline.planning.byte_text import readable_bytes
from pipeline.planning.estimate import LinkEstimate, readers

#: The share of a device's memory that can be planned with: allocators fragment, and libraries keep
#: workspaces.
USABLE = 0.9
#: A cache should be finished within a day; the width of its job array follows.
WANTED_HOURS = 24.0

_PRAISE = {
    "states": "exact, and serves every objective",
    "states int8": "serves every objective at half the bytes, with a KL near 1e-4",
    "sampled": "unbiased, and the fewest bytes",
    "topk": "biased, but few bytes",
}


@dataclass(frozen=True)
class Advice:
    #: One of cache_bytes.KINDS, `online`, or `none` if nothing is compared with a teacher.
    kind: str
    why: str


def advise(estimate: LinkEstimate) -> Advice:
    """Recommend the first kind that serves the objective and fits on the disk, else `online`.

    The order is states, int8 states, sampled and top-k targets.
    """
    if not estimate.compares:
        return Advice("none", "the objective compares with no teacher: nothing is cached")
    refused: list[str] = []
    for kind, cache in estimate.caches.items():
        reason = _cannot_serve(estimate, kind)
        if reason is None and cache.bytes > estimate.assumed.disk:
            reason = f"would take {readable_bytes(cache.bytes)}"
        if reason is None:
            return Advice(kind, "; ".join([_PRAISE[kind], *refused]))
        refused.append(f"{kind} {reason}")
    times = estimate.step_operations("online") / estimate.step_operations("sampled")
    return Advice(
        "online",
        f"no cache fits: {'; '.join(refused)}. The teacher running next to the student makes a "
        f"step {times:.1f} times as long",
    )


def consequences(every: Sequence[LinkEstimate], one: LinkEstimate, kind: str) -> list[str]:
    """Return what the size of the corpus means for the cache of one link's teacher.

    kind: the kind of target that was recommended.
    """
    if kind == "none":
        return []
    samples = [link.samples for link in readers(every, one)]
    sentences = _about_repetition(one, max(samples) / one.rows.rows)
    is_later_link = (
        one.link.key.startswith("distill_interpolated/")
        and one.link.teacher is not every[0].link.teacher
    )
    if is_later_link and one.settings.original_weight != 0.0:
        sentences.append(
            "what interpolated.original_weight adds to reading, operations and memory here is "
            "not counted"
        )
    if kind != "online":
        sentences += _about_caching(one, kind, sum(samples) / one.rows.rows)
    return sentences


def misfits(estimate: LinkEstimate, kind: str, peak: float, caching: float | None) -> list[str]:
    """Return what cannot work as the recipe has it, and how to fix it, in sentences.

    peak: bytes of a rank that trains. caching: bytes of a process that caches; None without.
    """
    sentences = []
    assumed, settings = estimate.assumed, estimate.settings.distill
    if settings.batch_size % (estimate.micro_batch * assumed.gpus):
        sentences.append(
            f"distill.batch_size {settings.batch_size} is not a multiple of "
            f"micro_batch_size {estimate.micro_batch} × {assumed.gpus} GPUs"
        )
    usable = USABLE * assumed.device_memory
    if peak > usable:
        sentences.append(
            f"{readable_bytes(peak)} a rank is more than {USABLE:.0%} of an {assumed.gpu}'s "
            f"{readable_bytes(assumed.device_memory)}: lower distill.micro_batch_size, "
            "take more GPUs, or ds_configs/zero3_offload.json"
        )
    if caching is not None and caching > usable:
        sentences.append(
            f"caching takes {readable_bytes(caching)} a process: lower cache.batch_size, "
            "or teacher.deepspeed=ds_configs/zero3_inference.json"
        )
    if estimate.compares and settings.targets != "online" and kind != "none":
        sentences += _cache_misfits(estimate)
    return sentences


def _about_repetition(one: LinkEstimate, times_seen: float) -> list[str]:
    """Return advice about how often one student sees each row."""
    views = one.settings.views
    if times_seen > 1.5:
        more = min(math.ceil(times_seen * views), 10 * views)
        return [
            f"a student sees each row {times_seen:.1f} times: tokens.views={more} gives it new "
            f"corruptions of the same text instead, for {more / views:.3g} times the disk and "
            "caching"
        ]
    if times_seen < 0.95:
        return [
            f"a student reads {times_seen:.1%} of the rows: the rest of the text need not be "
            "tokenised or cached (one view is enough), or raise distill.max_steps"
        ]
    return []


def _about_caching(one: LinkEstimate, kind: str, reads: float) -> list[str]:
    """Return advice about making a cache. reads: of one row, by all students together."""
    sentences = []
    if reads <= 1.2:
        sentences.append(
            f"all students together read a cached row {reads:.2g} times, so the cache saves no "
            "pass of the teacher; distill.targets=online needs no disk"
        )
    hours = one.caching_hours(kind)
    width = max(1, math.ceil(hours / WANTED_HOURS))
    if one.rows.shards is not None:
        width = min(width, one.rows.shards)
    sentences.append(f"CACHE_TASKS={width} tasks of one GPU cache it in {hours / width:,.1f} hours")
    return sentences


def _cache_misfits(estimate: LinkEstimate) -> list[str]:
    """Return what cannot work with the kinds of target that the recipe itself names."""
    sentences = []
    targets = estimate.settings.distill.targets
    reason = _cannot_serve(estimate, targets)
    if reason is not None:
        sentences.append(f"distill.targets {targets} {reason}")
    taken = sum(_recipe_bytes(estimate, name) for name in estimate.settings.cache.kinds)
    if taken > estimate.assumed.disk:
        sentences.append(
            f"the cache as the recipe has it takes {readable_bytes(taken)}, "
            f"and there are {readable_bytes(estimate.assumed.disk)}"
        )
    return sentences


def _recipe_bytes(estimate: LinkEstimate, name: str) -> float:
    """Return the bytes of one of the recipe's cache.kinds, in the recipe's dtype."""
    is_int8 = name == "states" and estimate.settings.cache.states.dtype == "int8"
    return estimate.caches["states int8" if is_int8 else name].bytes


def _cannot_serve(estimate: LinkEstimate, kind: str) -> str | None:
    """Return why this kind cannot serve the objective; None if it can."""
    settings, name = estimate.settings.distill, kind.split()[0]
    try:
        check_targets(settings.model_copy(update={"targets": name}), estimate.settings.cache)
    except ConfigError:
        return f"cannot serve the objective {settings.objective.preset}"
    return None
