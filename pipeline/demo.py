"""The demo: every stage on real English text, ending with a table measured in this run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pipeline.artifacts import atomic
from pipeline.console import say
from pipeline.corpus.splits import split_of
from pipeline.corpus.wiki import ATTRIBUTION, fetch_wiki
from pipeline.errors import DataError, PipelineError, Preempted
from pipeline.recipe import Recipe, Split, load_recipe
from pipeline.report import write_report

REPOSITORY = Path(__file__).resolve().parent.parent
_SPLITS = ("train", "validation", "test")

#: Script, recipe and purpose of each step, in order.
STEPS = (
    ("tokenize_corpus", "demo.yaml", "train a SentencePiece model and corrupt spans of the corpus"),
    (
        "distill",
        "demo-teacher.yaml",
        "pretrain a small T5 v1.1 as teacher (none can be downloaded offline)",
    ),
    ("cache_teacher", "demo.yaml", "cache the teacher's hidden states at the cut, and its tail"),
    ("distill", "demo.yaml", "distil the student from the cache"),
    ("distill", "demo-scratch.yaml", "pretrain the same student from scratch, for comparison"),
    ("distill_interpolated", "demo.yaml", "distil through one assistant"),
    ("finetune", "demo.yaml", "fine-tune and judge all four on two tasks"),
)


def run_demo(run: str, corpus: str | None) -> None:
    """Run or continue the demo below `run`.

    corpus: a .txt or .jsonl to pretrain on instead of Wikipedia.
    """
    began = time.monotonic()
    corpus = str(Path(corpus).resolve()) if corpus is not None else None
    # Recipes and DeepSpeed configurations are relative to the repository; the user's paths are not.
    run = os.path.relpath(Path(run).resolve(), REPOSITORY)
    os.chdir(REPOSITORY)
    recipe = load_recipe("recipes/demo.yaml", [f"run={run}"])
    assert recipe.corpus is not None
    overrides = [f"run={run}", *_prepare_text(recipe.root / "corpus", recipe.corpus.split, corpus)]
    took = {}
    for number, (stage, file, purpose) in enumerate(STEPS, 1):
        say(f"\n[{number}/{len(STEPS)}] {stage}: {purpose}")
        start = time.monotonic()
        _run_stage(stage, ["--recipe", f"recipes/{file}", *overrides])
        took[f"{number} {stage}"] = time.monotonic() - start
    _finish(recipe, took)
    say(f"\ndemo finished in {time.monotonic() - began:.0f} s. Watch its curves with:")
    say(f"  {Path(sys.executable).parent / 'tensorboard'} --logdir {recipe.root}")


def _prepare_text(directory: Path, shares: Split, corpus: str | None) -> list[str]:
    """Fetch the text into `directory` and write the tasks' splits.

    Return the overrides that point the recipe at the user's own text, if there is one.
    """
    wiki = fetch_wiki(directory)
    say(f"text: {ATTRIBUTION}")
    tasks = directory / "tasks"
    if not all((tasks / f"{split}.jsonl").exists() for split in _SPLITS):
        lines: dict[str, list[str]] = {split: [] for split in _SPLITS}
        for line in wiki.read_text(encoding="utf-8").splitlines():
            lines[split_of(json.loads(line)["title"], shares)].append(line)
        for split in _SPLITS:
            atomic.write_text(tasks / f"{split}.jsonl", "\n".join(lines[split]) + "\n")
    if corpus is None:
        return []
    if not Path(corpus).is_file():
        raise DataError(f"--corpus {corpus} does not exist")
    say(f"pretraining on {corpus}; the two tasks stay those of the Wikipedia text")
    return [f"corpus.sources=[{json.dumps(corpus)}]", "corpus.text=text", "corpus.key=null"]


def _run_stage(stage: str, arguments: list[str]) -> None:
    command = [sys.executable, str(REPOSITORY / "stages" / f"{stage}.py"), *arguments]
    process = subprocess.Popen(command)
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            # The terminal sent Ctrl-C to the stage too: it saves and exits by itself.
            continue
    if code in (75, 130):
        raise Preempted("the demo")
    if code:
        raise PipelineError(
            f"stage {stage} failed with exit code {code}; its error is printed above. "
            "Fix it and run the demo again"
        )


def _finish(recipe: Recipe, took: dict[str, float]) -> None:
    written = write_report(recipe.root, recipe.finetune.name, recipe=recipe)
    for path in written.files:
        shutil.copyfile(path, recipe.root / path.name)
    # The last stage has just printed the table.
    page = (recipe.root / "report.html").resolve()
    say(f"\nevery number was measured in this run; with charts: {page}")
    say("seconds a stage: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items()))
