"""`miniend`: the commands around the stages."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import __version__
from pipeline.console import say
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

    inspect = commands.add_parser("inspect", help="show what an artifact holds and was made from")
    inspect.add_argument("artifact", type=Path)

    verify = commands.add_parser("verify", help="check every byte of an artifact against its manifest")
    verify.add_argument("artifact", type=Path)

    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        from pipeline.demo import run_demo

        run_demo(arguments.run, arguments.corpus)
    elif arguments.command == "inspect":
        _inspect(arguments.artifact)
    else:
        _verify(arguments.artifact)


def _inspect(root: Path) -> None:
    from pipeline.artifacts import Artifact

    manifest = Artifact(root).manifest
    totals = manifest.totals
    say(
        f"{root}: {manifest.kind} {manifest.name}, fingerprint {manifest.fingerprint[:16]}, content {manifest.content_hash()[:16]}"
    )
    say(
        f"  {len(manifest.shards)} shards, {totals['rows']} rows, {totals['tokens']} tokens, {totals['bytes'] / 1e6:.1f} MB"
    )
    if totals["tokens"]:
        say(f"  {totals['bytes'] / totals['tokens']:.1f} bytes a token")
    for name, column in (manifest.shards[0].columns if manifest.shards else {}).items():
        say(f"  column {name}: {column.dtype} × {column.row_shape}")
    errors = [shard.notes["replay_error"] for shard in manifest.shards if shard.notes.get("replay_error")]
    if errors:
        worst = {name: max(error[name] for error in errors) for name in errors[0]}
        say("  replay error (largest, relative): " + ", ".join(f"{name} {value:.3g}" for name, value in worst.items()))
    for name, record in manifest.files.items():
        say(f"  file {name}: {record.bytes} bytes")
    for name, source in manifest.inputs.items():
        say(f"  made from {name} {source.fingerprint[:16]}")
    say(f"  made {manifest.provenance.get('created')} by miniend {manifest.provenance.get('miniend')}")


def _verify(root: Path) -> None:
    from pipeline.artifacts import Artifact

    artifact = Artifact(root)
    for shard in artifact.shards:
        artifact.verify_shard(shard.index)
    for name in artifact.manifest.files:
        artifact.verify_file(name)
    say(f"{root}: {len(artifact.shards)} shards and {len(artifact.manifest.files)} files are what was written")


if __name__ == "__main__":
    main()
