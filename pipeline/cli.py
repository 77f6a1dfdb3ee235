"""`miniend`: the commands around the stages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from pipeline import __version__
from pipeline.console import discard_output, say
from pipeline.errors import EXIT_BROKEN_PIPE, exit_on_error
from pipeline.slurm.jobs import STAGES

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


@exit_on_error
def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. argv: the arguments, those of the process by default."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="miniend", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    if not words or words[0] not in commands.choices:
        parser.parse_args(words)  # --help, --version or a mistake: the process ends here
        parser.error("the command comes first")
    command = commands.choices[words[0]]
    # Intermixed, which subparsers cannot do themselves: overrides may stand behind flags.
    arguments, unknown = command.parse_known_intermixed_args(words[1:])
    if "options" in arguments:
        arguments.options = unknown
    elif unknown:
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        arguments.run_command(arguments)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        discard_output()
        sys.exit(EXIT_BROKEN_PIPE)


# -- one pair of functions a command: its arguments, and what it does ------------------------------


def _add_demo(commands: Commands) -> None:
    demo = commands.add_parser("demo", help="run the whole pipeline on real text on this machine")
    demo.add_argument(
        "--run", default="runs/demo", help="directory of the run (default: %(default)s)"
    )
    demo.add_argument(
        "--corpus",
        metavar="FILE",
        help="pretrain on this .txt or .jsonl (field `text`) instead of Wikipedia",
    )
    demo.set_defaults(run_command=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    from pipeline.demo import run_demo

    run_demo(arguments.run, arguments.corpus)


def _add_plan(commands: Commands) -> None:
    plan = commands.add_parser(
        "plan", help="show what a recipe will make and cost, before anything runs"
    )
    plan.add_argument("recipe")
    plan.add_argument("overrides", nargs="*", metavar="section.key=value")
    plan.add_argument(
        "--gpus", type=int, default=8, help="how many train together (default: %(default)s)"
    )
    plan.add_argument(
        "--gpu", default="h100", help="h100, a100-80, h200, l40s, …, or cpu (default: %(default)s)"
    )
    plan.add_argument(
        "--mfu", type=float, default=0.4, help="assumed share of the peak (default: %(default)s)"
    )
    plan.add_argument(
        "--tokens",
        metavar="10B",
        help="tokens of text, where RUN/tokens is not there yet or another size is asked",
    )
    plan.add_argument(
        "--disk",
        metavar="50TB",
        help="room for caches; what is free where the run lies when absent",
    )
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.set_defaults(run_command=_plan)


def _plan(arguments: argparse.Namespace) -> None:
    from pipeline.planning.plan import show_plan

    show_plan(
        arguments.recipe,
        arguments.overrides,
        gpus=arguments.gpus,
        gpu=arguments.gpu,
        mfu=arguments.mfu,
        tokens=arguments.tokens,
        room=arguments.disk,
        as_json=arguments.json,
    )


def _add_inspect(commands: Commands) -> None:
    inspect = commands.add_parser("inspect", help="show what an artifact holds and was made from")
    inspect.add_argument("artifact", type=Path)
    inspect.set_defaults(run_command=_inspect)


def _inspect(arguments: argparse.Namespace) -> None:
    from pipeline.inspection import inspect_artifact

    inspect_artifact(arguments.artifact)


def _add_verify(commands: Commands) -> None:
    verify = commands.add_parser(
        "verify",
        help="check every byte of an artifact; of a teacher cache, replay a sample as well",
    )
    verify.add_argument("artifact", type=Path)
    verify.add_argument(
        "--replay-all",
        action="store_true",
        help="of a teacher cache, replay a sample of every shard, not of three",
    )
    verify.set_defaults(run_command=_verify)


def _verify(arguments: argparse.Namespace) -> None:
    from pipeline.inspection import verify_artifact

    verify_artifact(arguments.artifact, everything=arguments.replay_all)


def _add_export(commands: Commands) -> None:
    export = commands.add_parser("export", help="convert a model directory for another runtime")
    export.add_argument(
        "model", type=Path, help="a Transformers directory, such as RUN/distill/student/hf"
    )
    export.add_argument(
        "--format",
        choices=("ct2",),
        required=True,
        help="ct2: CTranslate2 (pip install 'miniend[ct2]')",
    )
    export.add_argument(
        "--out", type=Path, required=True, help="a directory that does not exist yet"
    )
    export.set_defaults(run_command=_export)


def _export(arguments: argparse.Namespace) -> None:
    from pipeline.conversion import to_ctranslate2

    to_ctranslate2(arguments.model, arguments.out)


def _add_status(commands: Commands) -> None:
    status = commands.add_parser("status", help="show how far every stage of a run is")
    status.add_argument("run", type=Path)
    status.add_argument(
        "--watch", action="store_true", help="show it again every few seconds until Ctrl-C"
    )
    status.set_defaults(run_command=_status)


def _status(arguments: argparse.Namespace) -> None:
    from pipeline.status.show import show_status

    show_status(arguments.run, watch=arguments.watch)


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report", help="compare the models of a run: report.json, report.md and report.html"
    )
    report.add_argument("run", type=Path)
    report.add_argument(
        "--name", default="comparison", help="the recipe's finetune.name (default: %(default)s)"
    )
    report.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: RUN/finetune/NAME)"
    )
    report.set_defaults(run_command=_report)


def _report(arguments: argparse.Namespace) -> None:
    from pipeline.report import write_report

    written = write_report(arguments.run, arguments.name, arguments.out)
    say(f"{written.table}\nwritten: {', '.join(map(str, written.files))}")


def _add_tensorboard(commands: Commands) -> None:
    board = commands.add_parser(
        "tensorboard", help="start TensorBoard over all stages of a run; more options go to it"
    )
    board.add_argument("run", type=Path)
    board.set_defaults(run_command=_tensorboard, options=[])


def _tensorboard(arguments: argparse.Namespace) -> None:
    from pipeline.status.boards import start_tensorboard

    start_tensorboard(arguments.run, arguments.options)


def _add_slurm_plan(commands: Commands) -> None:
    # For slurm/submit.sh: no help line, so that it is not listed.
    jobs = commands.add_parser("slurm-plan")
    jobs.add_argument("recipe")
    jobs.add_argument("overrides", nargs="*")
    jobs.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0])
    jobs.add_argument("--until", dest="last", choices=STAGES, default=STAGES[-1])
    jobs.add_argument("--cache-tasks", type=int, default=16)
    jobs.set_defaults(run_command=_slurm_plan)


def _slurm_plan(arguments: argparse.Namespace) -> None:
    from pipeline.slurm.job_plan import print_plan

    print_plan(
        arguments.recipe,
        arguments.overrides,
        first=arguments.first,
        last=arguments.last,
        cache_tasks=arguments.cache_tasks,
    )


#: In the order of `miniend --help`.
_COMMANDS = (
    _add_demo,
    _add_plan,
    _add_inspect,
    _add_verify,
    _add_export,
    _add_status,
    _add_report,
    _add_tensorboard,
    _add_slurm_plan,
)


if __name__ == "__main__":
    main()
