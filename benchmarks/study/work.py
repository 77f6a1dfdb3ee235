"""The study's work as stage commands, in the order of their needs. Finished work is left alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.study import corpus, forks
from benchmarks.study.forks import Command, Work
from benchmarks.study.grid import CACHES, OBJECTIVES, STUDENTS, Unit
from pipeline import lineage
from pipeline.artifacts import Output, atomic
from pipeline.corpus import reviews
from pipeline.corpus.splits import write_splits
from pipeline.distillation.job import resolve
from pipeline.distillation.links import resolve_links
from pipeline.errors import PipelineError, StaleArtifact
from pipeline.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parent / "recipes"
#: Share of the corpus' lines that the students read: enough for their steps once, and some more.
STUDENTS_SHARE = 0.15
#: Rows of each task's training set that are kept.
TUNING_ROWS = 5000
#: Settings of a version of a few minutes, for tests. Its results mean nothing.
QUICK_TEACHER = [
    "distill.max_steps=20",
    "distill.warmup_steps=5",
    "distill.validate_every=10",
    "distill.validation_rows=32",
    "tokens.views=1",
    "tokens.documents_per_shard=300",
    "tokenizer.vocab_size=2000",
    "student.d_model=64",
    "student.d_ff=128",
    "student.num_heads=1",
    "corpus.text=extract",
    "corpus.key=title",
]
QUICK_STUDENTS = [
    "distill.max_steps=8",
    "distill.warmup_steps=2",
    "distill.validate_every=4",
    "distill.validation_rows=16",
    "distill.batch_size=8",
    "finetune.max_steps=6",
    "finetune.validate_every=3",
    "finetune.validation_rows=16",
    "finetune.warmup_steps=1",
    "corpus.text=extract",
    "corpus.key=title",
]
QUICK_ROWS = 600


class Study:
    """One study in a directory of its own: the teacher's run, and the students' in `students/`."""

    def __init__(self, root: Path, *, quick: bool = False) -> None:
        self.root, self.quick = root, quick
        self.students = root / "students"
        self._teacher = [f"run={root}", *(QUICK_TEACHER if quick else [])]
        self._students = [f"run={self.students}", *(QUICK_STUDENTS if quick else [])]

    # -- what all units share --------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the text, the teacher, and its cache of states; each stage uses all cores."""
        self._text()
        teacher = ["--recipe", str(RECIPES / "teacher.yaml"), *self._teacher]
        students = ["--recipe", str(RECIPES / "students.yaml"), *self._students]
        _run("tokenize_corpus", teacher)
        # Several ranks of one thread are faster than one rank of several threads: on two cores
        # 11,000 tokens a second instead of 7,400.
        _run("distill", teacher, ranks=1 if self.quick else forks.devices())
        _run("tokenize_corpus", students)
        _run("cache_teacher", students)

    def _text(self) -> None:
        directory = self.root / "corpus"
        articles, films = corpus.wiki.fetch_wiki(directory), reviews.fetch_sentiment(directory)
        if self.quick:
            articles = _some(articles, directory / "few-articles.jsonl", QUICK_ROWS)
            films = _some(films, directory / "few-films.jsonl", QUICK_ROWS)
            _some(articles, directory / "corpus.jsonl", QUICK_ROWS)
            _some(articles, self.students / "corpus.jsonl", QUICK_ROWS)
        else:
            path = corpus.fetch(directory)
            with open(path, encoding="utf-8") as handle:
                lines = list(handle)
            atomic.write_text(
                self.students / "corpus.jsonl", "".join(lines[: round(len(lines) * STUDENTS_SHARE)])
            )
            atomic.write_text(
                self.students / "corpus.jsonl.attribution.txt", corpus.ATTRIBUTION + "\n"
            )
        split = self.recipe().corpus.split
        for rows, name, key in ((articles, "topics", "title"), (films, "reviews", "movie")):
            paths = write_splits(rows, directory / name, key, split)
            # Fine-tuning sees each of these at most about once; more would only be tokenised.
            _some(paths["train"], directory / name / "some.jsonl", TUNING_ROWS)

    # -- units -----------------------------------------------------------------------------------

    def recipe(self, *overrides: str) -> Recipe:
        return load_recipe(RECIPES / "students.yaml", [*self._students, *overrides])

    def overrides(self, unit: Unit) -> list[str]:
        """Return what a unit's recipe adds to the students' recipe."""
        path = unit.path
        student = STUDENTS[path.student] | {"init": path.init}
        distill: dict[str, Any] = {"name": unit.name, "targets": CACHES[path.cache]["targets"]}
        objective = {"preset": "lm"} | OBJECTIVES[path.objective]
        overrides = [
            f"seed={unit.seed}",
            f"student={json.dumps(student)}",
            f"distill.objective={json.dumps(objective)}",
        ]
        if path.init == "random":
            # These learn faster so, as the teacher did; students that begin with its layers do not.
            distill |= {"learning_rate": 0.01, "scale_parameter": "true", "weight_decay": 0.0}
        overrides += [f"distill.{key}={value}" for key, value in distill.items()]
        if path.cache != "states":
            cache = self.recipe().cache.model_dump(mode="json") | CACHES[path.cache]["cache"]
            overrides += [f"cache={json.dumps(cache)}", f"teacher.name={self._cache_name(unit)}"]
        if path.assistants:
            overrides += [
                f"interpolated.name={unit.name}",
                f"interpolated.assistants={path.assistants}",
            ]
        return overrides

    def _cache_name(self, unit: Unit) -> str:
        # A recipe's seed decides the draws, so samples differ between seeds as between whole runs.
        return f"sampled-seed_{unit.seed}" if unit.path.cache == "sampled" else unit.path.cache

    def output(self, unit: Unit) -> Output:
        """Return where a unit's student lies; raise PipelineError while its inputs are missing."""
        recipe = self.recipe(*self.overrides(unit))
        if unit.path.assistants:
            recipe = resolve_links(recipe)[-1].recipe
        return resolve(recipe, unit.path.stage).output

    def model(self, name: str, unit: Unit | None) -> Path:
        """Return the directory of a student, or of the teacher when there is no unit."""
        if unit is None:
            return self.root / "distill" / "teacher" / "hf"
        return self.students / unit.path.stage / name / "hf"

    def caching(self, units: list[Unit]) -> Iterator[Work]:
        """Yield the work of each cache that units read, except the shared one."""
        wanted = {self._cache_name(unit): unit for unit in units if unit.path.cache != "states"}
        for name, unit in wanted.items():
            yield self._steps(name, [("cache_teacher", self.overrides(unit))])

    def work(self, unit: Unit) -> Work:
        """Return the work that distils one student, then fine-tunes it on both tasks."""
        steps = [] if self._complete(unit) else [(unit.path.stage, self.overrides(unit))]
        return self._steps(unit.name, steps + self._tuning(unit.name, unit, unit.seed))

    def teacher_work(self, seed: int) -> Work:
        """Return the work that fine-tunes the teacher itself with one seed."""
        return self._steps(f"teacher-seed_{seed}", self._tuning("teacher", None, seed))

    def tuning_recipe(self, name: str, unit: Unit | None, seed: int) -> Recipe:
        return self.recipe(*self._tuning_overrides(name, unit, seed))

    def tuned(self, name: str, unit: Unit | None, seed: int) -> bool:
        """Return whether a model is fine-tuned on both tasks."""
        try:
            recipe = self.tuning_recipe(name, unit, seed)
            return all(
                lineage.finetune_output(
                    recipe, task, name, f"seed-{seed}", seed, recipe.finetune.rates(task)[0], {}
                ).complete()
                for task in recipe.finetune.tasks
            )
        except StaleArtifact:
            raise
        except PipelineError:
            return False  # its model does not exist yet

    def _tuning(self, name: str, unit: Unit | None, seed: int) -> list[tuple[str, list[str]]]:
        if self.tuned(name, unit, seed):
            return []
        return [("finetune", [*self._tuning_overrides(name, unit, seed), "--units-only"])]

    def _tuning_overrides(self, name: str, unit: Unit | None, seed: int) -> list[str]:
        models = {name: str(self.model(name, unit))}
        return [f"seed={seed}", f"finetune.models={json.dumps(models)}", f"finetune.seeds=[{seed}]"]

    def _complete(self, unit: Unit) -> bool:
        try:
            return self.output(unit).complete()
        except StaleArtifact:
            raise
        except PipelineError:
            return False  # its inputs do not exist yet

    def _steps(self, name: str, steps: list[tuple[str, list[str]]]) -> Work:
        left = iter(steps)
        log = self.students / "logs" / f"{name}.log"

        def following() -> Command | None:
            self._forget_checkpoints(name)
            step = next(left, None)
            if step is None:
                return None
            stage, overrides = step
            return Command(
                stage,
                ["--recipe", str(RECIPES / "students.yaml"), *self._students, *overrides],
                log,
            )

        return following

    def _forget_checkpoints(self, name: str) -> None:
        """Delete checkpoints of finished students: a hundred would fill the disk; hf/ is kept."""
        for made in (
            "distill",
            "distill_interpolated",
            "finetune/study/topic",
            "finetune/study/sentiment",
        ):
            for manifest in (self.students / made).glob(f"{name}*/**/manifest.json"):
                for directory in ("checkpoints", "initial"):
                    shutil.rmtree(manifest.parent / directory, ignore_errors=True)


def _some(rows: Path, path: Path, count: int) -> Path:
    """Write `count` of a file's lines, evenly spaced, to `path`; return it."""
    lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    count = min(count, len(lines))
    atomic.write_text(path, "".join(lines[number * len(lines) // count] for number in range(count)))
    return path


def _run(stage: str, arguments: list[str], ranks: int = 1) -> None:
    command = [str(forks.REPOSITORY / "stages" / f"{stage}.py"), *arguments]
    if ranks > 1:
        command = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), *command]
    done = subprocess.run([sys.executable, *command], check=False)
    if done.returncode:
        raise forks.Failed(
            f"{stage} failed with exit code {done.returncode}; its error is printed above"
        )
