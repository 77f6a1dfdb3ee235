"""The models and links a recipe will make, from configurations alone."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.distillation.links import link_steps, names_of
from pipeline.families import Shape
from pipeline.models.architecture import Architecture
from pipeline.models.published import describe
from pipeline.recipe import Distill, Recipe, Student
from pipeline.student.chain_shapes import chain_shapes
from pipeline.student.shapes import student_architecture, student_shape


@dataclass(frozen=True)
class NamedModel:
    name: str
    architecture: Architecture


@dataclass(frozen=True)
class Link:
    """One distillation: its directory below the run, its teacher and student, and its steps."""

    key: str
    teacher: NamedModel | None
    student: NamedModel
    steps: int

    @property
    def capacity_ratio(self) -> float | None:
        """Non-embedding parameters of the teacher over the student's.

        arXiv 2311.07052 finds about 2.5 best. None without a teacher.
        """
        if self.teacher is None:
            return None
        return self.teacher.architecture.size.blocks / self.student.architecture.size.blocks


@dataclass(frozen=True)
class Chain:
    #: Where the teacher's configuration was found; None without a teacher.
    source: str | None
    #: The link from the teacher straight to the student.
    direct: Link
    #: The links of the chain, teacher side first; empty if the recipe has no `interpolated`.
    links: list[Link]


def plan_chain(recipe: Recipe) -> Chain:
    """Return the links that a recipe will make.

    Raises ConfigError for a shape that cannot be, and if nothing is known of the teacher.
    """
    if recipe.teacher is None:
        vocabulary = recipe.tokenizer.vocab_size + recipe.tokenizer.sentinels
        student = student_architecture(recipe.student, None, vocabulary)
        return Chain(None, _direct(recipe.distill, None, student), [])
    known = describe(recipe.teacher.model)
    teacher = NamedModel(recipe.teacher.name, known.architecture)
    shape = student_shape(recipe.student, known.architecture)
    student = _student(recipe.student, known.architecture, shape)
    direct = _direct(recipe.distill, teacher, student)
    return Chain(known.source, direct, _links(recipe, teacher, shape))


def _direct(settings: Distill, teacher: NamedModel | None, student: Architecture) -> Link:
    model = NamedModel(settings.name, student)
    return Link(f"distill/{settings.name}", teacher, model, settings.max_steps)


def _links(recipe: Recipe, teacher: NamedModel, student: Shape) -> list[Link]:
    if "interpolated" not in recipe.model_fields_set:
        return []
    first, chain = teacher.architecture, recipe.interpolated
    shapes = chain_shapes(first, student, chain.assistants)
    names = names_of(chain, len(shapes))
    taken = link_steps(chain, recipe.distill.max_steps, len(shapes))
    links: list[Link] = []
    for own, shape, steps in zip(names, shapes, taken, strict=True):
        model = NamedModel(own, _student(recipe.student, first, shape))
        links.append(Link(f"distill_interpolated/{own}", teacher, model, steps))
        teacher = model
    return links


def _student(settings: Student, teacher: Architecture, shape: Shape) -> Architecture:
    """Return a student of this shape.

    The LM head of a random student follows the family's rule. That of a student made from its
    teacher is as the teacher's.
    """
    student = teacher.with_shape(shape)
    return student if settings.from_teacher else Architecture.of(student.config)
