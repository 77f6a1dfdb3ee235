"""Stage 5: fine-tune models on tasks and compare them.

    python stages/finetune.py --recipe recipes/demo.yaml [section.key=value …]
        [--models a,b] [--tasks x,y] [--trials seed-0]
    torchrun --nproc_per_node 2 stages/finetune.py --recipe recipes/demo.yaml finetune.max_steps=500
    python stages/finetune.py --recipe R.yaml --distil TASK [--shards 3,7-9]

Every model of `finetune.models` is fine-tuned on every task of `finetune.tasks`, with every seed
and learning rate, and scored on its test rows: labels by the likelihood of their texts, summaries
by greedy decoding or beam search. Each gives one artifact in
RUN/finetune/<name>/<task>/<model>/<trial>/ (docs/downstream.md). Then report.json, report.md and
report.html are written over all that are finished (docs/report.md).
`--units-only` leaves out the timing of the models and the reports, for arrays of jobs and sweeps
that are compared once at their end.
`--distil` makes the rows that a fine-tuned teacher labels, RUN/distilled/<name>/<task>/, and
nothing else.

Start it again after any interruption: finished units are kept, and an unfinished one continues from
its newest checkpoint.
"""

from __future__ import annotations

import argparse

from pipeline.console import say
from pipeline.downstream.comparison import resolve
from pipeline.downstream.run_jobs import run_jobs, run_labelling
from pipeline.errors import exit_on_error
from pipeline.ranks import environment_rank
from pipeline.report import write_report
from pipeline.stage_args import parse


@exit_on_error
def main() -> None:
    recipe, chosen = parse(__doc__, options=_options, trains="finetune")
    comparison = resolve(recipe)
    if chosen.distil is not None:
        run_labelling(comparison, chosen.distil, chosen.shards)
        return
    selected = comparison.select(chosen.models, chosen.tasks, chosen.trials)
    run_jobs(comparison, selected, timed=not chosen.units_only)
    if environment_rank()[0] == 0 and not chosen.units_only:
        say(write_report(recipe.root, recipe.finetune.name, recipe=recipe).table)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", type=_names, metavar="a,b", help="only these of finetune.models"
    )
    parser.add_argument("--tasks", type=_names, metavar="x,y", help="only these of finetune.tasks")
    parser.add_argument(
        "--trials", type=_names, metavar="seed-0", help="only these seeds and rates, by directory"
    )
    parser.add_argument(
        "--units-only", action="store_true", help="neither time the models nor write the reports"
    )
    parser.add_argument(
        "--distil", metavar="TASK", help="only let the fine-tuned teacher label the task's rows"
    )
    parser.add_argument("--shards", metavar="3,7-9", help="with --distil: only these shards")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    main()
