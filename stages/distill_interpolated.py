"""Stage 4: distil through assistants: teacher ▶ assistant(s) ▶ student.

    python stages/distill_interpolated.py --recipe recipes/demo.yaml [interpolated.assistants=2 …]
    torchrun --nproc_per_node 8 stages/distill_interpolated.py --recipe R.yaml

Reads   RUN/tokens and the model that `teacher.model` names.
Writes  RUN/distill_interpolated/<interpolated.name>.assistant-N/ and
        RUN/distill_interpolated/<interpolated.name>/, each like RUN/distill/<name>, and
        RUN/teacher_cache/ for the teacher and every assistant.

The assistants' shapes lie between the teacher's and the student's. The steps of `distill` are
shared between the links. Each link resumes by itself.

With --link and --part a chain runs as a chain of jobs: first the caching of link N, as in
cache_teacher.py, then its distillation.
"""

from __future__ import annotations

import argparse

from pipeline.console import say
from pipeline.distillation.links import Link, resolve_link, resolve_links
from pipeline.errors import ConfigError, exit_on_error
from pipeline.ranks import environment_rank, use_local_device
from pipeline.stage_args import parse


@exit_on_error
def main() -> None:
    recipe, chosen = parse(__doc__, options=_options, trains="distill")
    if (chosen.link is None) != (chosen.part is None) or (chosen.shards and chosen.part != "cache"):
        raise ConfigError("--link and --part go together, and --shards with --part cache")
    if chosen.part == "cache":
        _cache(resolve_link(recipe, chosen.link), chosen.shards)
        return
    if chosen.part == "distill":
        _distill(resolve_link(recipe, chosen.link))
        return
    links = resolve_links(recipe)
    if all(link.complete() for link in links):
        say(f"distill_interpolated: {recipe.interpolated.name} and its assistants are up to date")
        return

    from pipeline.distillation.interpolated import run_chain
    from pipeline.training import distributed

    run_chain(links)
    distributed.shutdown()


def _cache(link: Link, shards: str | None) -> None:
    """Cache the teacher of one link, as cache_teacher.py does."""
    from pipeline.teacher.caching import cache_teacher
    from pipeline.training import distributed

    use_local_device()
    cache_teacher(link.teacher_cache(), *environment_rank(), shards)
    distributed.shutdown()


def _distill(link: Link) -> None:
    """Distil one link, as distill.py does."""
    from pipeline.distillation.run import distill
    from pipeline.training import distributed

    distill(link.job())
    distributed.shutdown()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--link", type=int, metavar="N", help="only link N, counted from 1")
    parser.add_argument("--part", choices=("cache", "distill"), help="which part of the link")
    parser.add_argument(
        "--shards",
        metavar="3,7-9",
        help="with --part cache: only these shards, as for cache_teacher.py",
    )


if __name__ == "__main__":
    main()
