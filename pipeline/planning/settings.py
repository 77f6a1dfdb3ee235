"""The settings of a recipe that decide what its links cost."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.recipe import Cache, Distill, Recipe, ShareSchedule


@dataclass(frozen=True)
class PlannedSettings:
    """Settings that an estimate reads; shapes and steps come with its link, rows on their own."""

    distill: Distill
    cache: Cache
    #: The compute dtype of the teacher in the recipe, perhaps "auto".
    teacher_dtype: str
    #: Corruptions of each document.
    views: int
    #: The share of the chain's first teacher in later links.
    original_weight: float | ShareSchedule

    @classmethod
    def of(cls, recipe: Recipe) -> PlannedSettings:
        """Return these settings of a recipe; estimates read nothing else of it."""
        return cls(
            distill=recipe.distill,
            cache=recipe.cache,
            teacher_dtype=recipe.teacher.dtype if recipe.teacher is not None else "auto",
            views=recipe.tokens.views,
            original_weight=recipe.interpolated.original_weight,
        )
