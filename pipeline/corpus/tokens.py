"""What stage 1 left, as later stages open it. No heavy imports."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import Artifact
from pipeline.layout import Run


def open_tokens(run: Run, split: str) -> Artifact:
    """Return the examples of one split; raises IncompleteArtifact when they were not made yet."""
    return Artifact(run.tokens(split), "tokens")


def open_tokenizer(run: Run) -> Path:
    """Return the directory of the run's Transformers tokenizer.

    Raises IncompleteArtifact when it was not made yet, and CorruptArtifact when its bytes are not
    those that were written.
    """
    artifact = Artifact(run.tokenizer, "tokenizer")
    for name in artifact.manifest.files:
        artifact.verify_file(name)
    return artifact.root / "hf"
