"""Stage 4: a chain teacher ▶ assistants ▶ student.

Each link is cached and distilled like stages 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import ranks
from pipeline.artifacts import Output
from pipeline.distillation.links import Link
from pipeline.distillation.run import distill
from pipeline.teacher.caching import cache_teacher
from pipeline.training import distributed


def run_chain(links: Sequence[Link]) -> list[Output]:
    """Complete every link, each resuming where it stopped; every rank calls it."""
    distributed.setup()
    outputs = []
    for link in links:
        if not link.complete():
            for cache in link.caches():
                cache_teacher(cache, ranks.rank(), ranks.world_size())
                ranks.barrier()
        outputs.append(distill(link.job()))
    return outputs
