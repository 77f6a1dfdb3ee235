"""`miniend`: the commands around the stages."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import __version__
from pipeline.errors import exit_on_error


@exit_on_error
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="miniend", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="run the whole pipeline on real text on this machine")
    demo.add_argument("--run", default="runs/demo", help="directory of the run (default: %(default)s)")
    demo.add_argument(
        "--corpus", metavar="FILE", help="pretrain on this .txt or .jsonl (field `text`) instead of Wikipedia"
    )

    inspection = commands.add_parser("inspect", help="show what an artifact holds and was made from")
    inspection.add_argument("artifact", type=Path)

    verify = commands.add_parser(
        "verify", help="check every byte of an artifact; of a teacher cache, replay a sample as well"
    )
    verify.add_argument("artifact", type=Path)
    verify.add_argument(
        "--replay-all", action="store_true", help="of a teacher cache, replay a sample of every shard, not of three"
    )

    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        from pipeline.demo import run_demo

        run_demo(arguments.run, arguments.corpus)
    elif arguments.command == "inspect":
        from pipeline.inspection import inspect_artifact

        inspect_artifact(arguments.artifact)
    else:
        from pipeline.inspection import verify_artifact

        verify_artifact(arguments.artifact, everything=arguments.replay_all)


if __name__ == "__main__":
    main()
