"""Stage 4: distil through assistants: teacher ▶ assistant(s) ▶ student.

    python stages/distill_interpolated.py --recipe recipes/demo.yaml [interpolated.assistants=2 …]
    torchrun --nproc_per_node 8 stages/distill_interpolated.py --recipe R.yaml

Reads   RUN/tokens and the model that `teacher.model` names.
Writes  RUN/distill_interpolated/<interpolated.name>.assistant-N/ and RUN/distill_interpolated/<interpolated.name>/, each like
        RUN/distill/<name>, and RUN/teacher_cache/ for the teacher and every assistant.

The assistants' shapes lie between the teacher's and the student's; the steps of `distill` are shared between the links.
Each link resumes by itself.
"""

from __future__ import annotations

from pipeline.console import say
from pipeline.errors import exit_on_error
from pipeline.stage_args import parse


@exit_on_error
def main() -> None:
    recipe, _ = parse(__doc__)

    from pipeline.training.interpolated import chain_complete, run_chain

    if chain_complete(recipe):
        say(f"distill_interpolated: {recipe.interpolated.name} and its assistants are up to date")
        return

    from pipeline.training import distributed

    run_chain(recipe)
    distributed.shutdown()


if __name__ == "__main__":
    main()
