"""The recipe: one YAML file with everything that a run is made from.

Recipes are strict: an unknown key is an error that names the nearest known one.
`extends: other.yaml` starts from another recipe, and `section.key=value` on the command line
overrides both. `{run}` in a path stands for the recipe's `run` directory. Paths are relative to
the directory in which the stage is started.

Each setting is documented by the string below it, and `python -m pipeline.recipe.reference` writes
docs/recipe.md and recipe.schema.json from these strings. A mark in a setting's type
(section.py) says that it decides no content; a setting without one is part of every fingerprint.
"""

from pipeline.recipe.corpus import Corpus, Split, Tokenizer, Tokens
from pipeline.recipe.distill import Assistant, Distill, Interpolated, Original, ShareSchedule
from pipeline.recipe.finetune import Candidate, FineTune, LogitsDistillation
from pipeline.recipe.load import load_recipe
from pipeline.recipe.objective import (
    Blocks,
    DivergenceKind,
    FromEnd,
    HiddenPair,
    Objective,
    Schedule,
    Taid,
)
from pipeline.recipe.optimisation import Optimisation
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.student import BlockList, Init, ModelShape, Student
from pipeline.recipe.task import METRICS, Task, Values
from pipeline.recipe.teacher import Cache, Sampled, States, TargetKind, Teacher, Topk

__all__ = [
    "METRICS",
    "Assistant",
    "BlockList",
    "Blocks",
    "Cache",
    "Candidate",
    "Corpus",
    "Distill",
    "DivergenceKind",
    "FineTune",
    "FromEnd",
    "HiddenPair",
    "Init",
    "Interpolated",
    "LogitsDistillation",
    "ModelShape",
    "Objective",
    "Optimisation",
    "Original",
    "Recipe",
    "Sampled",
    "Schedule",
    "ShareSchedule",
    "Split",
    "States",
    "Student",
    "Taid",
    "TargetKind",
    "Task",
    "Teacher",
    "Tokenizer",
    "Tokens",
    "Topk",
    "Values",
    "load_recipe",
]
