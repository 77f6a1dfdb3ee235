"""Stage 3: distil a student from cached targets or with its teacher, or pretrain it without one.

    python stages/distill.py --recipe recipes/demo.yaml [section.key=value …]
    torchrun --nproc_per_node 8 stages/distill.py --recipe R.yaml distill.objective.preset=minilm

Reads   RUN/tokens/{tokenizer,train,validation}. Unless the objective is `lm` (only the LM loss), it
        also reads RUN/teacher_cache/<teacher.name> or, with `distill.targets=online`, the teacher
        itself. With `student.init: layers`, the teacher's weights are read once to initialise the
        student.
Writes  RUN/distill/<distill.name>/: checkpoints, metrics.jsonl, tensorboard/ and at the end hf/, a
        plain Transformers model.

On a signal (SIGTERM, SIGUSR1, Ctrl-C) the stage finishes the step, saves and exits with 75.
Starting it again resumes.
"""

from __future__ import annotations

from pipeline.console import say
from pipeline.distillation.job import resolve
from pipeline.errors import exit_on_error
from pipeline.stage_args import parse


@exit_on_error
def main() -> None:
    recipe, _ = parse(__doc__, trains="distill")
    job = resolve(recipe)
    if job.output.complete():
        say(f"distill: {job.output.root} is up to date")
        return

    from pipeline.distillation.run import distill
    from pipeline.training import distributed

    distill(job)
    distributed.shutdown()


if __name__ == "__main__":
    main()
