"""The command line every stage shares, and which of how many processes this one is. No heavy imports."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from types import FrameType

from pipeline.console import quiet_libraries
from pipeline.errors import EXIT_REQUEUE, ConfigError
from pipeline.hardware import usable_cpus
from pipeline.recipe import Recipe, load_recipe


def parse(
    description: str | None,
    argv: Sequence[str] | None = None,
    options: Callable[[argparse.ArgumentParser], object] | None = None,
    trains: str | None = None,
) -> tuple[Recipe, argparse.Namespace]:
    """Parse `--recipe R.yaml [section.key=value …]` and load the recipe.

    description: what `--help` prints first, usually the script's docstring.
    argv: the arguments; those of the process when absent. options: adds a stage's own flags to the parser.
    trains: the section of the recipe with the stage's training settings, which `--profile` is for.
    Raises ConfigError for a wrong recipe or override; argparse itself exits with 2 on a wrong flag.
    From here on SIGTERM and SIGUSR1 end the process with 75, but for the training loop, which saves first.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _stop)
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--recipe", required=True, metavar="FILE", help="the YAML recipe, e.g. recipes/demo.yaml"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="change one setting of the recipe, e.g. tokens.views=2 (repeatable)",
    )
    # The `deepspeed` launcher hands every process this flag; the rank is read from the environment instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    if trains is not None:
        parser.add_argument(
            "--profile",
            action="store_true",
            help=f"write a profile of a few steps: {trains}.profile=true",
        )
    if options is not None:
        options(parser)
    quiet_libraries()
    # parse_intermixed_args: overrides may stand before, between and after the flags.
    arguments = parser.parse_intermixed_args(argv)
    overrides = list(arguments.overrides)
    if trains is not None and arguments.profile:
        overrides.append(f"{trains}.profile=true")
    return load_recipe(arguments.recipe, overrides), arguments


def use_local_device() -> None:
    """Take this process's GPU, or its share of the machine's cores. For stages that join no process group."""
    import torch

    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        torch.cuda.set_device(local % torch.cuda.device_count())
    elif "OMP_NUM_THREADS" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun sets one thread a rank unless told otherwise, which leaves cores idle.
        torch.set_num_threads(max(1, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def environment_rank() -> tuple[int, int]:
    """Return (rank, world): RANK/WORLD_SIZE (torchrun, deepspeed), else SLURM_PROCID/SLURM_NTASKS (srun), else (0, 1).

    Raises ConfigError when one of a pair is missing, or is not a number, or they contradict each other.
    """
    names = ("RANK", "WORLD_SIZE")
    if not any(name in os.environ for name in names):
        if not _started_by_srun():
            return 0, 1
        names = ("SLURM_PROCID", "SLURM_NTASKS")
    found = [os.environ.get(name, "") for name in names]
    if not all(value.isdecimal() for value in found) or not int(found[0]) < int(found[1]):
        shown = ", ".join(
            f"{name}={value or '(unset)'}" for name, value in zip(names, found, strict=True)
        )
        raise ConfigError(
            f"{shown}: need a rank below the number of processes; unset both to run one process"
        )
    return int(found[0]), int(found[1])


def _stop(number: int, frame: FrameType | None) -> None:
    # At once and without cleaning up: everything on disk is atomic, so only the shard in progress is lost. os.write, as
    # print may be what was interrupted.
    name = signal.Signals(number).name
    os.write(2, f"stopped: by {name}; run the same command again to continue\n".encode())
    os._exit(EXIT_REQUEUE)


def _started_by_srun() -> bool:
    # A batch script sees the allocation's SLURM_NTASKS, but a python started there without srun is one process, not
    # rank 0 of many that never come. Batch and interactive steps have no step id or a reserved one (0xfffffffa and up).
    step = os.environ.get("SLURM_STEP_ID", "")
    return "SLURM_PROCID" in os.environ and step.isdecimal() and int(step) < 0xFFFFFFF0
