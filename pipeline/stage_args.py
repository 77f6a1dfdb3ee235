"""The command line that every stage shares. No heavy imports."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from types import FrameType

from pipeline.console import quiet_libraries
from pipeline.errors import EXIT_REQUEUE
from pipeline.recipe import Recipe, load_recipe


def parse(
    description: str | None,
    argv: Sequence[str] | None = None,
    options: Callable[[argparse.ArgumentParser], object] | None = None,
    trains: str | None = None,
) -> tuple[Recipe, argparse.Namespace]:
    """Parse `--recipe R.yaml [section.key=value …]` and load the recipe.

    description: printed first by `--help`, usually the script's docstring.
    argv: the arguments, those of the process by default.
    options: adds a stage's own flags to the parser.
    trains: the section of the recipe with the stage's training settings, which `--profile` sets.

    Raises ConfigError for a wrong recipe or override; argparse itself exits with 2 on a wrong flag.
    From here on SIGTERM and SIGUSR1 end the process with 75, except in the training loop, which
    saves first.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _stop)
    parser = _parser(description, trains)
    if options is not None:
        options(parser)
    quiet_libraries()
    # parse_intermixed_args: overrides may stand before, between and after the flags.
    arguments = parser.parse_intermixed_args(argv)
    overrides = list(arguments.overrides)
    if trains is not None and arguments.profile:
        overrides.append(f"{trains}.profile=true")
    return load_recipe(arguments.recipe, overrides), arguments


def _parser(description: str | None, trains: str | None) -> argparse.ArgumentParser:
    """Return the parser of the arguments that every stage takes."""
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
    # The `deepspeed` launcher gives every process this flag. The rank comes from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    if trains is not None:
        parser.add_argument(
            "--profile",
            action="store_true",
            help=f"write a profile of a few steps: {trains}.profile=true",
        )
    return parser


def _stop(number: int, frame: FrameType | None) -> None:
    # At once and without cleaning up: everything on disk is atomic, so only the shard in progress
    # is lost. os.write, because the signal may have interrupted a print.
    name = signal.Signals(number).name
    os.write(2, f"stopped: by {name}; run the same command again to continue\n".encode())
    os._exit(EXIT_REQUEUE)
