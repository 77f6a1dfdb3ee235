"""Stage 3: distil a student from cached targets or beside its teacher, or pretrain a model with the LM loss alone.

    python stages/distill.py --recipe recipes/demo.yaml [section.key=value …]
    torchrun --nproc_per_node 8 stages/distill.py --recipe R.yaml distill.objective.preset=minilm

Reads   RUN/tokens/{tokenizer,train,validation} and, unless the objective is `lm`, RUN/teacher_cache/<teacher.name> or, with
        `distill.targets=online`, the teacher itself. The
        teacher's own weights are read once, to initialise the student (`student.init: layers`).
Writes  RUN/distill/<distill.name>/: checkpoints, metrics.jsonl, tensorboard/ and at the end hf/, a plain Transformers model.

A signal (SIGTERM, SIGUSR1, Ctrl-C) finishes the step, saves and exits with 75; starting again resumes.
"""

from __future__ import annotations

from pipeline import lineage
from pipeline.console import say
from pipeline.errors import exit_on_error
from pipeline.stage_args import parse
from pipeline.distillation.objective import check_targets, needs_cache


@exit_on_error
def main() -> None:
    recipe, _ = parse(__doc__, trains="distill")
    check_targets(recipe.distill, recipe.cache)
    output = lineage.distill_output(recipe, needs_cache=needs_cache(recipe.distill))
    if output.complete():
        say(f"distill: {output.root} is up to date")
        return

    from pipeline.training import distributed
    from pipeline.distillation.run import distill

    distill(recipe, output, label=f"distill {recipe.distill.name}")
    distributed.shutdown()


if __name__ == "__main__":
    main()
