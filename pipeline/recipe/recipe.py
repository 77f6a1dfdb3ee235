"""The whole recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import model_validator

from pipeline.recipe.corpus import Corpus, Tokenizer, Tokens
from pipeline.recipe.distill import Distill, Interpolated
from pipeline.recipe.finetune import FineTune
from pipeline.recipe.section import Naming, NonNegativeInt, Section
from pipeline.recipe.student import Student
from pipeline.recipe.teacher import Cache, Teacher


class Recipe(Section):
    """The settings of a whole run."""

    run: Annotated[str, Naming]
    """The directory of the run. `{run}` in a path stands for it."""
    seed: NonNegativeInt = 0
    """The seed of everything that is drawn at random."""
    corpus: Corpus | None = None
    """The text that the tokens are made from; stage 1 needs it."""
    tokenizer: Tokenizer = Tokenizer()
    """The tokenizer of the run."""
    tokens: Tokens = Tokens()
    """Settings that turn text into rows of tokens (stage 1)."""
    teacher: Teacher | None = None
    """The model that the student learns from. Not needed for the LM loss alone."""
    cache: Cache = Cache()
    """Targets that are stored from the teacher (stage 2)."""
    student: Student = Student()
    """The shape and first weights of the student."""
    distill: Distill = Distill()
    """Training of the student (stages 3 and 4)."""
    interpolated: Interpolated = Interpolated()
    """The chain of assistants (stage 4)."""
    finetune: FineTune = FineTune()
    """The comparison of models on tasks (stage 5)."""

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        names = [self.teacher.name] if self.teacher is not None else []
        names += [self.distill.name, self.interpolated.name, self.finetune.name]
        names += [*self.finetune.models, *(task.name for task in self.finetune.tasks)]
        for name in names:
            if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
                raise ValueError(f"name {name!r} may hold letters, digits, '-', '_' and '.' only")
        return self

    @property
    def root(self) -> Path:
        """Return the directory of the run."""
        return Path(self.run)

    def to_yaml(self) -> str:
        """Return the recipe with every default filled in, as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
