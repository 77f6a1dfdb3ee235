"""The path of each artifact of a run.

Paths alone: what decides an artifact's content is in each room's job.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: The stages that train a student.
StudentStage = Literal["distill", "distill_interpolated"]


@dataclass(frozen=True)
class Run:
    """The directory of a run (`run` in a recipe)."""

    root: Path

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokens" / "tokenizer"

    def tokens(self, split: str) -> Path:
        """Return the examples of one split, "train" or "validation"."""
        return self.root / "tokens" / split

    def cache(self, teacher: str) -> Path:
        """Return the cached targets of the teacher of this name."""
        return self.root / "teacher_cache" / teacher

    def student(self, stage: StudentStage, name: str) -> Path:
        return self.root / stage / name

    def comparison(self, name: str) -> Path:
        """Return all fine-tuned models of one `finetune` section."""
        return self.root / "finetune" / name

    def fine_tuned(self, comparison: str, task: str, model: str, trial: str) -> Path:
        return self.comparison(comparison) / task / model / trial

    def distilled(self, comparison: str, task: str) -> Path:
        """Return the targets that a fine-tuned teacher wrote for a task."""
        return self.root / "distilled" / comparison / task
