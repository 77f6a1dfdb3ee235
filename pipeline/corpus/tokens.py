"""The artifacts of stage 1, as later stages open them. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import Artifact
from pipeline.layout import Run
from pipeline.models.directory import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizerDirectory:
    """A directory that holds a Transformers tokenizer."""

    path: Path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded once."""
        return load_tokenizer(self.path)


def open_tokens(run: Run, split: str) -> Artifact:
    """Return the examples of one split; raises IncompleteArtifact when they were not made yet."""
    return Artifact(run.tokens(split), "tokens")


def open_tokenizer(run: Run) -> TokenizerDirectory:
    """Return the run's Transformers tokenizer.

    Raises IncompleteArtifact when it was not made yet, and CorruptArtifact when its bytes are not
    those that were written.
    """
    artifact = Artifact(run.tokenizer, "tokenizer")
    for name in artifact.manifest.files:
        artifact.verify_file(name)
    return TokenizerDirectory(artifact.root / "hf")
