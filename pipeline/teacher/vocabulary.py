"""Does a model speak the tokens of a run?"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.models.directory import same_vocabulary


def check_vocabulary(name: str, model: Path, vocab_size: int, tokenizer: Path) -> None:
    """Refuse a model whose tokenizer is not the one the tokens were made with.

    Raises ConfigError. A model directory without a tokenizer passes when every token id fits its vocabulary.
    """
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(tokenizer)
    if len(ours) > vocab_size:
        raise ConfigError(
            f"{name} has a vocabulary of {vocab_size}, but the corpus was tokenised with {len(ours)} tokens ({tokenizer}): "
            f"set tokenizer.path to {name} and tokenise again"
        )
    if not any(
        (model / file).is_file()
        for file in ("tokenizer.json", "spiece.model", "tokenizer_config.json")
    ):
        return
    if not same_vocabulary(AutoTokenizer.from_pretrained(model), ours):
        raise ConfigError(
            f"{name} comes with another tokenizer than the one the corpus was tokenised with ({tokenizer}): "
            f"set tokenizer.path to {name} and tokenise again"
        )
