"""Stage 4: distil through assistants: teacher ▶ assistant(s) ▶ student.

    python stages/distill_interpolated.py --recipe recipes/demo.yaml [interpolated.assistants=2 …]
    torchrun --nproc_per_node 8 stages/distill_interpolated.py --recipe R.yaml

Reads   RUN/tokens and the model that `teacher.model` names.
Writes  RUN/distill_interpolated/<interpolated.name>.assistant-N/ and RUN/distill_interpolated/<interpolated.name>/, each like
        RUN/distill/<name>, and RUN/teacher_cache/ for the teacher and every assistant.

The assistants' shapes lie between the teacher's and the student's; the steps of `distill` are shared between the links.
Each link resumes by itself.

  --link N --part cache [--shards 3,7-9]   only cache the teacher of link N, as cache_teacher.py does
  --link N --part distill                  only distil link N, from the cache that is there: a chain as a chain of jobs
"""

from __future__ import annotations

import argparse

from pipeline.console import say
from pipeline.errors import ConfigError, exit_on_error
from pipeline.objectives import presets
from pipeline.stage_args import environment_rank, parse, use_local_device


@exit_on_error
def main() -> None:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--link", type=int)
    own.add_argument("--part", choices=("cache", "distill"))
    own.add_argument("--shards")
    chosen, rest = own.parse_known_args()
    if (chosen.link is None) != (chosen.part is None) or (chosen.shards and chosen.part != "cache"):
        raise ConfigError("--link and --part go together, and --shards with --part cache")
    recipe, _ = parse(__doc__, rest)
    objective = recipe.distill.objective
    needs_cache = presets.needs_teacher(presets.resolve(objective.preset, objective.weights))

    from pipeline.training import interpolated

    if chosen.part == "cache":
        from pipeline.teacher.cache import cache_teacher

        use_local_device()
        cache_teacher(interpolated.link(recipe, chosen.link), *environment_rank(), chosen.shards)
        return
    if chosen.part is None and interpolated.chain_complete(recipe, needs_cache=needs_cache):
        say(f"distill_interpolated: {recipe.interpolated.name} and its assistants are up to date")
        return

    from pipeline.training import distributed

    if chosen.part == "distill":
        interpolated.run_link(recipe, chosen.link, needs_cache=needs_cache)
    else:
        interpolated.run_chain(recipe, needs_cache=needs_cache)
    distributed.shutdown()


if __name__ == "__main__":
    main()
