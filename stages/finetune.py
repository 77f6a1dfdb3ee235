"""Stage 5: fine-tune models on tasks and compare them.

    python stages/finetune.py --recipe recipes/demo.yaml [--models a,b] [--tasks x,y] [section.key=value …]
    torchrun --nproc_per_node 2 stages/finetune.py --recipe recipes/demo.yaml finetune.max_steps=500

Every model of `finetune.models` is fine-tuned on every task of `finetune.tasks` and scored on its test rows: labels by the
likelihood of their texts, summaries by greedy decoding. One artifact each in RUN/finetune/<name>/<task>/<model>/, with its
weights (hf/), predictions.jsonl and metrics.json; then report.json and report.md over all of them that are finished.

Start it again after any interruption: finished units are kept, an unfinished one goes on from its newest checkpoint.
"""

from __future__ import annotations

import argparse

from pipeline.console import say
from pipeline.downstream import finetune, report
from pipeline.errors import exit_on_error
from pipeline.stage_args import environment_rank, parse


@exit_on_error
def main() -> None:
    recipe, chosen = parse(__doc__, options=_options, trains="finetune")
    comparison = finetune.run(recipe, models=chosen.models, tasks=chosen.tasks)
    if environment_rank()[0] == 0:
        say(report.markdown(comparison))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=_names, metavar="a,b", help="only these of finetune.models")
    parser.add_argument("--tasks", type=_names, metavar="x,y", help="only these of finetune.tasks")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    main()
