"""The models and links a recipe will make, from configurations alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.distillation.links import link_steps
from pipeline.families import Shape, family_of
from pipeline.models.published import describe
from pipeline.models.size import Size, Sizes
from pipeline.recipe import Recipe
from pipeline.student.chain import chain_shapes
from pipeline.student.shapes import student_config, student_shape


@dataclass(frozen=True)
class Model:
    name: str
    config: Any
    #: Whether its LM head is its own.
    separate_head: bool
    size: Size

    @property
    def shape(self) -> Shape:
        return family_of(self.config).shape(self.config)

    def empty(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model on the meta device: everything but its numbers."""
        return family_of(self.config).empty_model(self.config, self.separate_head, dtype)


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
        config = student_config(
            recipe.student, None, recipe.tokenizer.vocab_size + recipe.tokenizer.sentinels
        )
        student = model_of(recipe.distill.name, config, None)
        return Chain(
            None,
            Link(f"distill/{recipe.distill.name}", None, student, recipe.distill.max_steps),
            [],
        )
    found = describe(recipe.teacher.model)
    config, separate_head = found.config, found.separate_head
    family = family_of(config)
    teacher = model_of(recipe.teacher.name, config, separate_head)

    def made(name: str, shape: Shape) -> Model:
        # A random student's head follows the family's rule, one made from its teacher is as the teacher's.
        own = separate_head if recipe.student.from_teacher else None
        return model_of(name, family.with_shape(config, shape), own)

    bottom = student_shape(recipe.student, config, separate_head)
    direct = Link(
        f"distill/{recipe.distill.name}",
        teacher,
        made(recipe.distill.name, bottom),
        recipe.distill.max_steps,
    )
    links: list[Link] = []
    if "interpolated" in recipe.model_fields_set:
        name = recipe.interpolated.name
        shapes = chain_shapes(config, bottom, recipe.interpolated.assistants, separate_head)
        names = [*(f"{name}.assistant-{index}" for index in range(1, len(shapes))), name]
        for own, shape, steps in zip(names, shapes, link_steps(recipe, len(shapes)), strict=True):
            above = links[-1].student if links else teacher
            links.append(Link(f"distill_interpolated/{own}", above, made(own, shape), steps))
    return Chain(found.source, direct, links)


def model_of(name: str, config: Any, separate_head: bool | None) -> Model:
    """separate_head: None where the family's rule decides."""
    family = family_of(config)
    separate = family.expects_separate_head(config) if separate_head is None else separate_head
    return Model(name, config, separate, Sizes(config, separate).of(family.shape(config)))
