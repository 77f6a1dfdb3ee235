"""The links of stage 4, resolved from a recipe: teacher ▶ assistants ▶ student.

A link is a recipe of its own, which is also its record on disk. It becomes a job only when its turn
comes: its inputs are known only once the link before it is there.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.distillation import job
from pipeline.distillation.job import DistillJob
from pipeline.distillation.objective import check_targets, needs_cache, part_weights
from pipeline.errors import ConfigError
from pipeline.layout import Run
from pipeline.models import open_model
from pipeline.recipe import (
    BlockList,
    Cache,
    Distill,
    Init,
    Interpolated,
    Original,
    Recipe,
    Student,
    Teacher,
)
from pipeline.teacher import job as teacher_job
from pipeline.teacher.cuts import resolve_cuts
from pipeline.teacher.job import CacheJob, required_teacher

if TYPE_CHECKING:
    from pipeline.families import Shape
    from pipeline.models.architecture import Architecture


@dataclass(frozen=True)
class Link:
    """One link of a chain."""

    #: The recipe of this link alone.
    recipe: Recipe

    @property
    def name(self) -> str:
        """Return the name of its result below RUN/distill_interpolated/."""
        return self.recipe.distill.name

    def job(self) -> DistillJob:
        """Return its distillation; its teacher and the caches it reads must exist."""
        return job.resolve(self.recipe, "distill_interpolated")

    def teacher_cache(self) -> CacheJob:
        """Return the cache of its own teacher, which must be there."""
        return teacher_job.resolve(self.recipe)

    def caches(self) -> list[CacheJob]:
        """Return the caches it reads, its own teacher's first; the teachers must exist."""
        if not needs_cache(self.recipe.distill):
            return []
        caches, original = [self.teacher_cache()], self.recipe.distill.original
        if original is not None:
            caches.append(teacher_job.resolve(self.recipe, original.teacher))
        return caches

    def complete(self) -> bool:
        """Return whether it is finished and matches its current recipe."""
        root = Run(self.recipe.root).student("distill_interpolated", self.name)
        return (root / "manifest.json").exists() and self.job().output.complete()


def resolve_links(recipe: Recipe) -> list[Link]:
    """Return the links, teacher side first; the last one makes the student.

    The teacher of link i is the result of link i-1. The steps of `distill` are shared between the
    links, so that a chain costs as many student steps as direct distillation.
    """
    teacher = required_teacher(recipe)
    architecture, shapes = _shapes(recipe)
    students = _students(recipe.student, recipe.interpolated, shapes)
    _check(recipe, [architecture.shape, *shapes], students)
    names = names_of(recipe.interpolated, len(shapes))
    steps = link_steps(recipe.interpolated, recipe.distill.max_steps, len(shapes))
    links: list[Link] = []
    for name, student, count in zip(names, students, steps, strict=True):
        link = recipe.model_copy(update={"teacher": teacher, "student": student})
        original = required_teacher(recipe) if links else None
        links.append(Link(_with_training(link, original, name, count)))
        model = str(Run(recipe.root).student("distill_interpolated", name) / "hf")
        teacher = teacher.model_copy(update={"model": model, "name": name})
    return links


def link_names(recipe: Recipe) -> list[str]:
    """Return the names of the links' results below RUN/distill_interpolated/, teacher side first.

    The last one is the student. Raises ConfigError when their number depends on the teacher
    (`assistants: auto`) and the teacher does not exist yet.
    """
    chain = recipe.interpolated
    if isinstance(chain.assistants, int):
        return names_of(chain, chain.assistants + 1)
    count = len(_shapes(recipe)[1]) if chain.assistants == "auto" else len(chain.assistants) + 1
    return names_of(chain, count)


def names_of(chain: Interpolated, links: int) -> list[str]:
    """Return the names of the results of `links` links, teacher side first."""
    return [*(f"{chain.name}.assistant-{index}" for index in range(1, links)), chain.name]


def link_steps(chain: Interpolated, max_steps: int, links: int) -> list[int]:
    """Return how many of `max_steps` each of `links` links takes, teacher side first."""
    shares = chain.step_shares or [1.0] * links
    if len(shares) != links:
        raise ConfigError(
            f"interpolated.step_shares has {len(shares)} entries for {links} links: "
            "give one for each assistant and one more"
        )
    total = sum(shares)
    steps = [max(1, round(max_steps * share / total)) for share in shares]
    steps[-1] = max(1, max_steps - sum(steps[:-1]))
    return steps


def resolve_link(recipe: Recipe, number: int) -> Link:
    """Return link `number`, counted from 1; raises ConfigError when there is no such link."""
    if not 1 <= number <= len(link_names(recipe)):
        raise ConfigError(f"--link {number}: the chain has links 1 to {len(link_names(recipe))}")
    return resolve_links(recipe)[number - 1]


def _shapes(recipe: Recipe) -> tuple[Architecture, list[Shape]]:
    """Return the teacher's architecture, and the shape of each link's result."""
    from pipeline.student.chain_shapes import chain_shapes
    from pipeline.student.shapes import student_shape

    teacher = open_model(required_teacher(recipe).model).architecture
    bottom = student_shape(recipe.student, teacher)
    return teacher, chain_shapes(teacher, bottom, recipe.interpolated.assistants)


def _with_training(link: Recipe, original: Teacher | None, name: str, steps: int) -> Recipe:
    """Return `link` with its name and its share of the steps.

    original: the chain's first teacher, if it may take part in the objective.
    """
    chain, weight = link.distill, link.interpolated.original_weight
    warmup = round(chain.warmup_steps * steps / chain.max_steps)
    update: dict[str, Any] = {"name": name, "max_steps": steps, "warmup_steps": warmup}
    if original is not None and weight != 0.0:
        update["original"] = Original(teacher=original, weight=weight)
    settings = chain.model_copy(update=update)
    check_targets(settings, link.cache)
    return link.model_copy(update={"distill": settings})


def _students(last: Student, chain: Interpolated, shapes: list[Shape]) -> list[Student]:
    """Return the settings of each link's result. last: those of the chain's student."""
    inits: list[Any] = [None] * len(shapes)
    if not isinstance(chain.assistants, (int, str)):
        inits[:-1] = [assistant.init for assistant in chain.assistants]
    default = last.init
    lists_blocks = isinstance(default, Init) and isinstance(default.blocks, BlockList)
    if lists_blocks and any(init is None for init in inits[:-1]):
        raise ConfigError(
            "student.init.blocks lists blocks, and each link has a teacher of its own: list "
            "interpolated.assistants too, each with its init, or set student.init.blocks=uniform"
        )
    students = []
    for shape, init in zip(shapes, inits, strict=True):
        size = asdict(shape) | {"scale": None, "params": None}
        update = size | {"init": default if init is None else init}
        students.append(last.model_copy(update=update))
    return students


def _check(recipe: Recipe, shapes: list[Shape], students: list[Student]) -> None:
    """Raise ConfigError, before the first link begins, for a link that its shapes do not allow."""
    from pipeline.distillation.places import check_objective
    from pipeline.objectives import presets
    from pipeline.student.initial import check_init

    objective = recipe.distill.objective
    compares = presets.needs_teacher(part_weights(objective))
    has_original = recipe.interpolated.original_weight != 0.0
    for (teacher, student), settings in zip(itertools.pairwise(shapes), students, strict=True):
        if settings.from_teacher is not None:
            check_init(settings.from_teacher, student, teacher)
        teachers = {teacher, shapes[0]} if has_original else {teacher}
        for shape in teachers if compares else ():
            visible = _visible_shape(recipe.cache, recipe.distill, shape)
            check_objective(objective, student, visible)


def _visible_shape(cache: Cache, settings: Distill, teacher: Shape) -> Shape:
    """Return the shape of the part of a teacher that an objective can compare with.

    It is the whole teacher, or the part after its cache's cut.
    """
    cuts = resolve_cuts(cache, teacher.encoder_layers, teacher.decoder_layers)
    if settings.targets == "online":
        cuts = 0, 0
    return replace(
        teacher,
        encoder_layers=teacher.encoder_layers - cuts[0],
        decoder_layers=teacher.decoder_layers - cuts[1],
    )
