"""Process group, device and threads of this rank: alone, under torchrun, the deepspeed launcher or srun."""

from __future__ import annotations

import os
import socket
import warnings
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist

from pipeline.hardware import usable_cpus

#: How long ranks wait for one that hashes a checkpoint, converts one or caches the last shards; the default is ten minutes.
PATIENCE = timedelta(hours=2)


@cache
def setup() -> None:
    """Join the process group once; a process started alone becomes a world of one.

    RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are taken from the environment where a launcher set them.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.distributed.*")
    _complete_environment()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    import deepspeed
    from deepspeed.ops import __compatible_ops__ as compatible_ops

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        deepspeed.init_distributed("nccl", timeout=PATIENCE)
        return
    # DeepSpeed would compile a shared-memory all-reduce at start: 26 s, and a process killed meanwhile leaves a lock on which
    # every later start waits for ever. gloo needs neither.
    compatible_ops["deepspeed_shm_comm"] = False
    if "OMP_NUM_THREADS" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun sets one thread a rank unless told otherwise, which leaves cores idle.
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, usable_cpus() // local))
    deepspeed.init_distributed("gloo", verbose=False, timeout=PATIENCE)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> tuple[int, int]:
    """Which of how many ranks of this node this one is; (0, 1) where no launcher says."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def device() -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def sum_over_ranks(values: list[float]) -> list[float]:
    """Add up a list of numbers over all ranks, in float64."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(tensor)
    return tensor.tolist()


def largest(value: int) -> int:
    """The largest of the ranks' values."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.int64, device=device())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)


def shutdown() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _complete_environment() -> None:
    env = os.environ
    if (
        "SLURM_PROCID" in env
        and "RANK" not in env
        and int(env.get("SLURM_NTASKS", "1")) > 1
        and "MASTER_ADDR" in env
    ):
        env |= {
            "RANK": env["SLURM_PROCID"],
            "WORLD_SIZE": env["SLURM_NTASKS"],
            "LOCAL_RANK": env["SLURM_LOCALID"],
        }
    if "RANK" not in env:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env |= {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
