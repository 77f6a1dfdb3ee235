"""This process among the ranks: which one it is, its device and threads, and sums over all ranks.

A rank is known in two ways. `environment_rank` reads what a launcher set (torchrun, the deepspeed
launcher, srun) and needs no process group. `rank` and `world_size` ask the process group, which
`pipeline.training.distributed.setup` joins. torch is imported only by functions that need it, so
that start-up checks stay quick.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.hardware import usable_cpus

if TYPE_CHECKING:
    import torch

# -- what the launcher set -----------------------------------------------------------------------


def environment_rank() -> tuple[int, int]:
    """Return (rank, world) as the launcher set them, (0, 1) without a launcher.

    RANK and WORLD_SIZE (torchrun, deepspeed) come first, then SLURM_PROCID and SLURM_NTASKS (srun).
    Raises ConfigError when one of a pair is missing or is not a number, or when the rank is not
    below the world.
    """
    names = ("RANK", "WORLD_SIZE")
    if not any(name in os.environ for name in names):
        if not _started_by_srun():
            return 0, 1
        names = ("SLURM_PROCID", "SLURM_NTASKS")
    values = [os.environ.get(name, "") for name in names]
    if not all(value.isdecimal() for value in values) or not int(values[0]) < int(values[1]):
        shown = ", ".join(
            f"{name}={value or '(unset)'}" for name, value in zip(names, values, strict=True)
        )
        raise ConfigError(
            f"{shown}: need a rank below the number of processes; unset both to run one process"
        )
    return int(values[0]), int(values[1])


def local_rank() -> tuple[int, int]:
    """Return (rank, ranks) on this node, (0, 1) where no launcher set them."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def complete_environment() -> None:
    """Set the variables that a process group needs where the launcher did not.

    srun's ranks get RANK, WORLD_SIZE and LOCAL_RANK if MASTER_ADDR says where they meet. A process
    started alone becomes a world of one at a free port of this machine.
    """
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


def _started_by_srun() -> bool:
    # A batch script sees the allocation's SLURM_NTASKS, but a python started there without srun is
    # one process, not rank 0 of many that never come. Batch and interactive steps have no step id
    # or a reserved one (0xfffffffa and up).
    step = os.environ.get("SLURM_STEP_ID", "")
    return "SLURM_PROCID" in os.environ and step.isdecimal() and int(step) < 0xFFFFFFF0


# -- device and threads --------------------------------------------------------------------------


def use_local_device() -> None:
    """Take this rank's GPU, or its share of the machine's cores where there is no GPU."""
    import torch

    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        torch.cuda.set_device(local % torch.cuda.device_count())
    elif "OMP_NUM_THREADS" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun sets one thread a rank where the user sets none, which leaves cores idle.
        torch.set_num_threads(max(1, usable_cpus() // local_rank()[1]))


def device() -> torch.device:
    """Return the device that this rank computes on."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


# -- the process group ---------------------------------------------------------------------------


def rank() -> int:
    """Return the rank in the process group, 0 without one."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks in the process group, 1 without one."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every rank is here."""
    import torch.distributed as dist

    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(values: list[float]) -> list[float]:
    """Add up a list of numbers over all ranks, in float64."""
    import torch
    import torch.distributed as dist

    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(tensor)
    return tensor.tolist()


def largest(value: int) -> int:
    """Return the largest of the ranks' values."""
    import torch
    import torch.distributed as dist

    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.int64, device=device())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)
