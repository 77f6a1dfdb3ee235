"""Join the process group, through DeepSpeed: alone, under torchrun, the deepspeed launcher or srun.

It is not in `pipeline.ranks`, because only `pipeline.training` may import DeepSpeed.
"""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

from pipeline.ranks import complete_environment, use_local_device

#: How long ranks wait for one that hashes a checkpoint, converts one or caches the last shards.
#: The default is ten minutes.
GROUP_TIMEOUT = timedelta(hours=2)


@cache
def setup() -> None:
    """Join the process group once and take this rank's device and threads.

    A process started alone becomes a world of one. RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT come from the environment where a launcher set them.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.distributed.*")
    complete_environment()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed
    from deepspeed.ops import __compatible_ops__ as compatible_ops

    use_local_device()
    if torch.cuda.is_available():
        deepspeed.init_distributed("nccl", timeout=GROUP_TIMEOUT)
        return
    # DeepSpeed would compile a shared-memory all-reduce at start. That takes 26 s, and a process
    # killed then leaves a lock on which every later start waits for ever. gloo needs neither.
    compatible_ops["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", verbose=False, timeout=GROUP_TIMEOUT)


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
