"""Stage 2: cache the targets of a teacher for every shard of the training tokens.

    python stages/cache_teacher.py --recipe recipes/demo.yaml [section.key=value …]
    torchrun --nproc_per_node 8 stages/cache_teacher.py --recipe R.yaml [--shards 3,7-9]

Reads   RUN/tokens/train and the model that `teacher.model` names.
Writes  RUN/teacher_cache/<teacher.name>/, one shard per token shard, with the kinds of target in `cache.kinds`: hidden states at
        `cache.encoder_cut` and `cache.decoder_cut` and the tail of the teacher that replays them, sampled logits, top-k logits.

Of N processes the i-th takes shards i, i + N, i + 2 N …, and they need not start together, unless `teacher.deepspeed` spreads a teacher
too large for one device over them (torchrun). Starting again touches only what is missing. SIGTERM or SIGUSR1 ends it
with 75: the shard in progress is lost, run it again to go on.
"""

from __future__ import annotations

import argparse

from pipeline import lineage
from pipeline.console import say
from pipeline.errors import exit_on_error
from pipeline.stage_args import environment_rank, parse, use_local_device


@exit_on_error
def main() -> None:
    recipe, chosen = parse(__doc__, options=_options)
    rank, world = environment_rank()
    output = lineage.cache_output(recipe)
    if output.complete():
        say(f"teacher_cache: {output.root} is up to date")
        return

    from pipeline.teacher.caching import cache_teacher
    from pipeline.training import distributed
    from pipeline.teacher.partitioned import teacher_loader

    use_local_device()
    cache_teacher(recipe, rank, world, chosen.shards, loader=teacher_loader(recipe))
    distributed.shutdown()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shards",
        metavar="3,7-9",
        help="only these shards; 1::4 is every fourth from 1 on. For job arrays: whoever finds all done writes the manifest",
    )


if __name__ == "__main__":
    main()
