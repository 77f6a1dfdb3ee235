"""Stage 2: cache the targets of a teacher for every shard of the training tokens.

    python stages/cache_teacher.py --recipe recipes/demo.yaml [section.key=value …]
    torchrun --nproc_per_node 8 stages/cache_teacher.py --recipe R.yaml

Reads   RUN/tokens/train and the model that `teacher.model` names.
Writes  RUN/teacher_cache/<teacher.name>/: the hidden states entering the teacher's blocks at `cache.encoder_cut` and
        `cache.decoder_cut`, one shard per token shard, and the tail of the teacher that replays them.

Of N processes the i-th takes shards i, i + N, i + 2 N …; starting again touches only what is missing.
"""

from __future__ import annotations

import os

from pipeline import lineage
from pipeline.console import say
from pipeline.errors import exit_on_error
from pipeline.stage_args import environment_rank, parse


@exit_on_error
def main() -> None:
    recipe, _ = parse(__doc__)
    rank, world = environment_rank()
    output = lineage.cache_output(recipe)
    if output.complete():
        say(f"teacher_cache: {output.root} is up to date")
        return

    import torch

    from pipeline.teacher.cache import cache_teacher

    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    else:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if recipe.teacher is not None and recipe.teacher.deepspeed is not None:
        # The one case in which this stage needs DeepSpeed, and all its processes at once.
        from pipeline.training import distributed
        from pipeline.training.partitioned import load_partitioned

        cache_teacher(recipe, rank, world, load=load_partitioned)
        distributed.shutdown()
        return
    cache_teacher(recipe, rank, world)


if __name__ == "__main__":
    main()
