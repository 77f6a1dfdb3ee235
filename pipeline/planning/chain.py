"""The models and links a recipe will make, from configurations alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.families import Shape, family_of
from pipeline.planning.parameters import Parameters, count_parameters, empty_model
from pipeline.planning.published import describe
from pipeline.recipe import Recipe
from pipeline.student.shapes import interpolate, student_config, student_shape
from pipeline.training.interpolated import link_steps


@dataclass(frozen=True)
class Model:
    name: str
    config: Any
    separate_head: bool | None
    parameters: Parameters

    @property
    def shape(self) -> Shape:
        return family_of(self.config).shape(self.config)


@dataclass(frozen=True)
class Link:
    """One distillation: its directory below the run, who teaches, who learns, for how many steps."""

    key: str
    teacher: Model | None
    student: Model
    steps: int


@dataclass(frozen=True)
class Chain:
    #: Where the teacher's configuration was found; None without a teacher.
    source: str | None
    #: The direct student.
    direct: Link
    #: The links of the chain, teacher side first; none when the recipe has no `interpolated`.
    links: list[Link]


def plan_chain(recipe: Recipe) -> Chain:
    """Raises ConfigError for a shape that cannot be, and when nothing is known of the teacher."""
    if recipe.teacher is None:
        config = student_config(recipe.student, None, recipe.tokenizer.vocab_size + recipe.tokenizer.sentinels)
        student = _model(recipe.distill.name, config, None)
        return Chain(None, Link(f"distill/{recipe.distill.name}", None, student, recipe.distill.max_steps), [])
    found = describe(recipe.teacher.model)
    family = family_of(found.config)
    teacher = _model(recipe.teacher.name, found.config, found.separate_head)

    def made(name: str, shape: Shape) -> Model:
        # A random student's head follows the family's rule, one made from its teacher is as the teacher's.
        separate = None if recipe.student.init == "random" else found.separate_head
        return _model(name, family.with_shape(found.config, shape), separate)

    bottom = student_shape(recipe.student, teacher.shape)
    direct = Link(
        f"distill/{recipe.distill.name}", teacher, made(recipe.distill.name, bottom), recipe.distill.max_steps
    )
    links: list[Link] = []
    if "interpolated" in recipe.model_fields_set:
        name = recipe.interpolated.name
        shapes = [*interpolate(teacher.shape, bottom, recipe.interpolated.assistants), bottom]
        names = [*(f"{name}.assistant-{index}" for index in range(1, len(shapes))), name]
        for own, shape, steps in zip(names, shapes, link_steps(recipe, len(shapes)), strict=True):
            above = links[-1].student if links else teacher
            links.append(Link(f"distill_interpolated/{own}", above, made(own, shape), steps))
    return Chain(found.source, direct, links)


def _model(name: str, config: Any, separate_head: bool | None) -> Model:
    return Model(name, config, separate_head, count_parameters(empty_model(config, separate_head)))
