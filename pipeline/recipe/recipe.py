"""The whole recipe."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import model_validator

from pipeline.recipe.base import NonNegativeInt, Section
from pipeline.recipe.corpus import Corpus, Tokenizer, Tokens
from pipeline.recipe.distill import Distill, Interpolated
from pipeline.recipe.finetune import FineTune
from pipeline.recipe.student import Student
from pipeline.recipe.teacher import Cache, Teacher


class Recipe(Section):
    run: str
    seed: NonNegativeInt = 0
    corpus: Corpus | None = None
    tokenizer: Tokenizer = Tokenizer()
    tokens: Tokens = Tokens()
    teacher: Teacher | None = None
    cache: Cache = Cache()
    student: Student = Student()
    distill: Distill = Distill()
    interpolated: Interpolated = Interpolated()
    finetune: FineTune = FineTune()

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        names = [self.teacher.name] if self.teacher is not None else []
        names += [
            self.distill.name,
            self.interpolated.name,
            self.finetune.name,
            *self.finetune.models,
        ]
        names += [task.name for task in self.finetune.tasks]
        for name in names:
            if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
                raise ValueError(f"name {name!r} may hold letters, digits, '-', '_' and '.' only")
        return self

    @property
    def root(self) -> Path:
        return Path(self.run)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
