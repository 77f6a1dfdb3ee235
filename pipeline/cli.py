"""`miniend`: the commands around the stages."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import __version__
from pipeline.console import say
from pipeline.errors import exit_on_error

#: In the order in which they run.
STAGES = ("tokenize_corpus", "cache_teacher", "distill", "distill_interpolated", "finetune")


@exit_on_error
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="miniend", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run the whole pipeline on real text on this machine")
    demo.add_argument(
        "--run", default="runs/demo", help="directory of the run (default: %(default)s)"
    )
    demo.add_argument(
        "--corpus",
        metavar="FILE",
        help="pretrain on this .txt or .jsonl (field `text`) instead of Wikipedia",
    )

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

    inspection = commands.add_parser(
        "inspect", help="show what an artifact holds and was made from"
    )
    inspection.add_argument("artifact", type=Path)

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

    status = commands.add_parser("status", help="show how far every stage of a run is")
    status.add_argument("run", type=Path)
    status.add_argument(
        "--watch", action="store_true", help="show it again every few seconds until Ctrl-C"
    )

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

    board = commands.add_parser(
        "tensorboard", help="start TensorBoard over all stages of a run; more options go to it"
    )
    board.add_argument("run", type=Path)

    # For slurm/submit.sh: no help line, so that it is not listed.
    jobs = commands.add_parser("slurm-plan")
    jobs.add_argument("recipe")
    jobs.add_argument("overrides", nargs="*")
    jobs.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0])
    jobs.add_argument("--until", dest="last", choices=STAGES, default=STAGES[-1])
    jobs.add_argument("--cache-tasks", type=int, default=16)

    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "plan" and not any(item.startswith("-") for item in rest):
        # Overrides that stand behind a flag.
        arguments.overrides, rest = [*arguments.overrides, *rest], []
    if rest and arguments.command != "tensorboard":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command == "demo":
        from pipeline.demo import run_demo

        run_demo(arguments.run, arguments.corpus)
    elif arguments.command == "plan":
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
    elif arguments.command == "inspect":
        from pipeline.inspection import inspect_artifact

        inspect_artifact(arguments.artifact)
    elif arguments.command == "verify":
        from pipeline.inspection import verify_artifact

        verify_artifact(arguments.artifact, everything=arguments.replay_all)
    elif arguments.command == "export":
        from pipeline.conversion import to_ctranslate2

        to_ctranslate2(arguments.model, arguments.out)
    elif arguments.command == "status":
        from pipeline.status import show

        show.show_status(arguments.run, watch=arguments.watch)
    elif arguments.command == "report":
        from pipeline.report import write_report

        written = write_report(arguments.run, arguments.name, arguments.out)
        say(f"{written.table}\nwritten: {', '.join(map(str, written.files))}")
    elif arguments.command == "tensorboard":
        from pipeline.status import boards

        boards.start_tensorboard(arguments.run, rest)
    else:
        _slurm_plan(arguments)


def _slurm_plan(arguments: argparse.Namespace) -> None:
    from pipeline.errors import ConfigError
    from pipeline.recipe import load_recipe
    from pipeline.slurm import plan, queue, records

    stages = STAGES[STAGES.index(arguments.first) : STAGES.index(arguments.last) + 1]
    if not stages:
        raise ConfigError(f"--from {arguments.first} comes after --until {arguments.last}")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    submitted = records.submitted_keys(recipe.root / "logs")
    known = queue.known_jobs(submitted.values())
    if known is None:
        raise ConfigError(
            "squeue does not answer, so what was submitted before may still be running: try again later"
        )
    alive = {job.array for job in known.values() if job.live}
    queued = {key: job for key, job in submitted.items() if job in alive}
    found = plan.plan_jobs(recipe, stages, queued, arguments.cache_tasks)
    for line in found.lines(recipe.run, ["--recipe", arguments.recipe, *arguments.overrides]):
        say(line)


if __name__ == "__main__":
    main()
