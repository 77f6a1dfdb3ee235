"""The job of stage 3 and of each link of stage 4, resolved once from recipe and disk.

No heavy imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import Artifact, Output
from pipeline.artifacts.manifest import InputRecord
from pipeline.corpus.tokens import TokenizerDirectory, open_tokenizer, open_tokens
from pipeline.distillation.objective import as_scheduled, check_targets, needs_cache, part_weights
from pipeline.hardware import resolve_dtype
from pipeline.layout import Run, StudentStage
from pipeline.models import ModelDirectory, open_model
from pipeline.objectives import presets
from pipeline.objectives.weight_schedules import Scheduled
from pipeline.recipe import Distill, Init, Recipe, Student
from pipeline.teacher import job as teacher_job
from pipeline.teacher.job import CacheJob, required_teacher
from pipeline.training.identity import optimisation_payload

if TYPE_CHECKING:
    from pipeline.models.architecture import Architecture

#: Bump by hand when the stage writes other content from the same settings.
DISTILL_FORMAT = 2
#: The prefix of the side that compares with the original teacher of a chain.
ORIGINAL = "original"


@dataclass(frozen=True)
class TeacherSide:
    """One teacher that an objective compares with, and its share."""

    #: The prefix of the names of its targets and losses; empty for the recipe's teacher.
    prefix: str
    #: Its share of the objective; None for the rest that the other sides leave.
    share: Scheduled | None
    #: Its cache, which is finished, or never made with `targets: online`.
    cache: CacheJob


@dataclass(frozen=True)
class DistillJob:
    """A student, its training rows and the teachers it is compared with."""

    output: Output
    label: str
    run: Run
    seed: int
    settings: Distill
    train: Artifact
    validation: Artifact
    #: The recipe's settings of the student's shape and first weights.
    student_settings: Student
    #: The teacher from which the student takes its vocabulary and, for `init: layers`, weights.
    teacher: ModelDirectory | None
    sides: tuple[TeacherSide, ...]
    #: Tokens of an input, as the recipe says.
    input_length: int
    #: For the model card alone. The card shows five of its
    #: sections and a hash of everything that decides content, so no smaller value serves.
    recipe: Recipe

    @property
    def init(self) -> Init | None:
        """Return how the first weights are made from the teacher's; None when they are random."""
        return self.student_settings.from_teacher

    @cached_property
    def tokenizer(self) -> TokenizerDirectory:
        """Return the tokenizer that made the tokens."""
        return open_tokenizer(self.run)

    @cached_property
    def student(self) -> Architecture:
        """Return the student's architecture; raises ConfigError for an impossible shape."""
        from pipeline.student.shapes import student_architecture

        vocabulary = len(self.tokenizer.tokenizer)
        teacher = self.teacher.architecture if self.teacher is not None else None
        return student_architecture(self.student_settings, teacher, vocabulary)

    @property
    def cached(self) -> bool:
        """Return whether the teachers' targets are read from caches."""
        return needs_cache(self.settings)


def resolve(recipe: Recipe, stage: StudentStage = "distill") -> DistillJob:
    """Return the job of distilling the recipe's student.

    Raises ConfigError for targets that cannot serve the objective. Raises IncompleteArtifact or
    StaleArtifact when tokens or caches are missing or do not match the recipe.
    """
    check_targets(recipe.distill, recipe.cache)
    if recipe.student.from_teacher is not None:
        required_teacher(recipe)
    run, settings = Run(recipe.root), recipe.distill
    train, validation = open_tokens(run, "train"), open_tokens(run, "validation")
    inputs = {"train": train.as_input(), "validation": validation.as_input()}
    teacher = open_model(recipe.teacher.model) if recipe.teacher is not None else None
    sides = _sides(recipe, teacher)
    if needs_cache(settings):
        inputs |= {side.prefix or "cache": _finished(side.cache) for side in sides}
    payload = _payload(recipe, train, teacher, inputs)
    root = run.student(stage, settings.name)
    return DistillJob(
        output=Output(root, stage, payload, recipe.to_yaml(), inputs),
        label=f"distill {settings.name}",
        run=run,
        seed=recipe.seed,
        settings=settings,
        train=train,
        validation=validation,
        student_settings=recipe.student,
        teacher=teacher,
        sides=sides,
        input_length=recipe.tokens.input_length,
        recipe=recipe,
    )


def _sides(recipe: Recipe, teacher: ModelDirectory | None) -> tuple[TeacherSide, ...]:
    """Return the teachers that the objective compares with; none for only the LM loss."""
    settings = recipe.distill
    if not presets.needs_teacher(part_weights(settings.objective)):
        return ()
    sides = [TeacherSide("", None, teacher_job.resolve(recipe, model=teacher))]
    if settings.original is not None:
        original = settings.original.teacher
        same = recipe.teacher is not None and original.model == recipe.teacher.model
        cache = teacher_job.resolve(recipe, original, teacher if same else None)
        sides.append(TeacherSide(ORIGINAL, as_scheduled(settings.original.weight), cache))
    return tuple(sides)


def _finished(cache: CacheJob) -> InputRecord:
    """Return the record of a finished cache; raises when it does not match the recipe."""
    cache.output.complete()
    return Artifact(cache.output.root, "teacher_cache").as_input()


def _payload(
    recipe: Recipe,
    train: Artifact,
    teacher: ModelDirectory | None,
    inputs: dict[str, InputRecord],
) -> dict[str, Any]:
    """Return the settings and inputs that decide the student's content."""
    settings = recipe.distill
    caches = {name: record.fingerprint for name, record in inputs.items()}
    payload: dict[str, Any] = {
        "stage": "distill",
        "format": DISTILL_FORMAT,
        "seed": recipe.seed,
        "tokens": train.fingerprint,
        "cache": caches.get("cache"),
        "teacher": teacher.content if teacher is not None else None,
        "student": recipe.student.identity(),
        "settings": optimisation_payload(settings),
    }
    if settings.original is not None:
        payload["original"] = caches.get(ORIGINAL)
    if settings.targets == "online" and recipe.teacher is not None:
        payload["teacher_dtype"] = resolve_dtype(recipe.teacher.dtype)
    return payload
