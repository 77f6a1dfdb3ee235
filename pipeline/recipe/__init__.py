"""The recipe: one YAML file that says everything a run is made from.

Strict: an unknown key is an error that names the nearest known one. `extends: other.yaml` starts from another recipe;
`section.key=value` on the command line overrides both. `{run}` in a path stands for the recipe's `run` directory.
Paths are relative to the directory the stage is started in.
"""

from pipeline.recipe.corpus import Corpus, Split, Tokenizer, Tokens
from pipeline.recipe.distill import (
    Assistant,
    Blocks,
    Distill,
    FromEnd,
    HiddenPair,
    Interpolated,
    Objective,
    Original,
    Schedule,
    ShareSchedule,
    Taid,
)
from pipeline.recipe.finetune import Candidate, FineTune, LogitsDistillation
from pipeline.recipe.load import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.student import BlockList, Init, ModelShape, Student
from pipeline.recipe.task import METRICS, Task, Values
from pipeline.recipe.teacher import Cache, Sampled, States, TargetKind, Teacher, Topk
from pipeline.recipe.training import Optimisation

__all__ = [
    "METRICS",
    "Assistant",
    "BlockList",
    "Blocks",
    "Cache",
    "Candidate",
    "Corpus",
    "Distill",
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
