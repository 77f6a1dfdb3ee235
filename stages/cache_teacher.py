"""Stage 2: cache the targets of a teacher for every shard of the training tokens.

    python stages/cache_teacher.py --recipe recipes/demo.yaml [section.key=value …]
    torchrun --nproc_per_node 8 stages/cache_teacher.py --recipe R.yaml [--shards 3,7-9]

Reads   RUN/tokens/train and the model that `teacher.model` names.
Writes  RUN/teacher_cache/<teacher.name>/, one shard per token shard, with the kinds of target in
        `cache.kinds`: hidden states at `cache.encoder_cut` and `cache.decoder_cut` with the tail of
        the teacher that replays them, sampled logits, or top-k logits.

With N processes, process i takes shards i, i + N, i + 2 N …; they need not start at the same time.
Only `teacher.deepspeed` (torchrun) needs all processes together: it partitions a teacher that is
too large for one device. A second start makes only the missing shards. SIGTERM or SIGUSR1 ends the
stage with exit code 75. The shard in progress is lost; run the stage again to continue.
"""

from __future__ import annotations

import argparse

from pipeline.console import say
from pipeline.errors import exit_on_error
from pipeline.ranks import environment_rank, use_local_device
from pipeline.stage_args import parse
from pipeline.teacher.job import resolve


@exit_on_error
def main() -> None:
    recipe, chosen = parse(__doc__, options=_options)
    rank, world = environment_rank()
    job = resolve(recipe)
    if job.output.complete():
        say(f"teacher_cache: {job.output.root} is up to date")
        return

    from pipeline.teacher.caching import cache_teacher
    from pipeline.training import distributed

    use_local_device()
    cache_teacher(job, rank, world, chosen.shards)
    distributed.shutdown()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shards",
        metavar="3,7-9",
        help="only these shards; 1::4 is every fourth from 1 on. For job arrays: the process that "
        "completes the last shard writes the manifest",
    )


if __name__ == "__main__":
    main()
