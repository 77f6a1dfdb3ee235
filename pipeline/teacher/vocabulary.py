"""The check that a model knows the tokens of a run."""

from __future__ import annotations

from pipeline.corpus.tokens import TokenizerDirectory
from pipeline.errors import ConfigError
from pipeline.models import ModelDirectory
from pipeline.models.directory import same_vocabulary


def check_vocabulary(model: ModelDirectory, tokenizer: TokenizerDirectory) -> None:
    """Raise ConfigError unless the tokens were made with the model's tokenizer.

    A model directory without a tokenizer passes when every token id fits its vocabulary.
    """
    corpus_tokenizer, vocab_size = tokenizer.tokenizer, model.architecture.vocab_size
    if len(corpus_tokenizer) > vocab_size:
        raise ConfigError(
            f"{model.name} has a vocabulary of {vocab_size}, but the corpus was tokenised with "
            f"{len(corpus_tokenizer)} tokens ({tokenizer.path}): set tokenizer.path to "
            f"{model.name} and tokenise again"
        )
    if model.has_tokenizer and not same_vocabulary(model.tokenizer, corpus_tokenizer):
        raise ConfigError(
            f"{model.name} comes with another tokenizer than the one the corpus was tokenised with "
            f"({tokenizer.path}): set tokenizer.path to {model.name} and tokenise again"
        )
