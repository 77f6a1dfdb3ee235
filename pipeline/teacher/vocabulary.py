"""Whether a model knows the tokens of a run."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.models import ModelDirectory
from pipeline.models.directory import load_tokenizer, same_vocabulary


def check_vocabulary(model: ModelDirectory, tokenizer: Path) -> None:
    """Refuse a model whose tokenizer is not the one the tokens were made with.

    Raises ConfigError. A model directory without a tokenizer passes when every token id fits its
    vocabulary.
    """
    ours, vocab_size = load_tokenizer(tokenizer), model.architecture.vocab_size
    if len(ours) > vocab_size:
        raise ConfigError(
            f"{model.name} has a vocabulary of {vocab_size}, but the corpus was tokenised with "
            f"{len(ours)} tokens ({tokenizer}): set tokenizer.path to {model.name} and tokenise again"
        )
    if model.has_tokenizer and not same_vocabulary(model.tokenizer, ours):
        raise ConfigError(
            f"{model.name} comes with another tokenizer than the one the corpus was tokenised with "
            f"({tokenizer}): set tokenizer.path to {model.name} and tokenise again"
        )
