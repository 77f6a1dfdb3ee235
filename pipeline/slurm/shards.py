"""The shards of an array's tasks, as `--shards` takes them: `0-2,5`, or `3::16` for every 16th."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pipeline.teacher.job import CacheJob


def every_nth(tasks: int) -> tuple[str, ...]:
    """Share out shards whose number is not known yet: task i takes i, i + tasks, i + 2 tasks…"""
    return tuple(f"{task}::{tasks}" for task in range(tasks))


def split_shards(shards: Sequence[int], tasks: int) -> tuple[str, ...]:
    """Share out `shards` among at most `tasks` array tasks, each with neighbouring shards."""
    tasks = min(tasks, len(shards))
    bounds = [len(shards) * task // tasks for task in range(tasks + 1)]
    return tuple(_ranges(shards[start:stop]) for start, stop in pairwise(bounds))


def missing_shards(job: CacheJob) -> list[int]:
    """Return the shards of a cache that are not made yet, in order.

    Shard 0 is among them when nothing else is missing, or the tail is: its process writes the tail
    and the manifest.
    """
    missing = job.output.missing(len(job.tokens.shards))
    wants_tail = "states" in job.settings.kinds
    if not missing or (wants_tail and not (job.output.root / "tail" / "config.json").is_file()):
        return sorted({0, *missing})
    return missing


def _ranges(numbers: Sequence[int]) -> str:
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
