"""The job of stage 1: its settings and the places it writes to, resolved from a recipe once.

Imports neither torch nor Transformers, so that a stage with nothing to do answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import Output
from pipeline.artifacts.atomic import sha256_bytes
from pipeline.artifacts.manifest import read_manifest
from pipeline.corpus.lengths import Lengths, example_lengths
from pipeline.corpus.source_identity import source_hash
from pipeline.errors import ConfigError, DataError
from pipeline.layout import Run
from pipeline.models.directory import tokenizer_hash
from pipeline.recipe import Corpus, Recipe, Tokenizer, Tokens

#: Format versions: raise one by hand when the stage writes other content from the same settings.
TOKENIZER_FORMAT = 1
TOKENS_FORMAT = 1

BuiltSplit = Literal["train", "validation"]
#: The splits that are tokenised, validation first, so a corpus that is too small fails before the
#: large split is built. The test split is left for uses that need text no model has seen.
BUILT_SPLITS: tuple[BuiltSplit, ...] = ("validation", "train")


@dataclass(frozen=True)
class TokenizeJob:
    """Everything that stage 1 needs; `resolve` makes it from a recipe."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: Tokens
    seed: int
    #: RUN/tokens/tokenizer: trained on the training split, or a copy of `tokenizer.path`.
    tokenizer_output: Output
    #: RUN/tokens/<split>, in the order of BUILT_SPLITS: corrupted examples of one split.
    tokens_outputs: Mapping[BuiltSplit, Output]

    @cached_property
    def lengths(self) -> Lengths:
        """The token counts of one example; raises ConfigError if the settings allow none."""
        settings = self.tokens
        return example_lengths(
            settings.input_length, settings.noise_density, settings.mean_span_length
        )

    def is_complete(self) -> bool:
        """Return whether nothing is left to do. Quick: reads manifests and sidecars only."""
        outputs = [self.tokenizer_output, *self.tokens_outputs.values()]
        # All are asked, so a stale one is refused before another is begun.
        complete = [output.complete() for output in outputs]
        return all(complete)

    def check(self) -> None:
        """Raise ConfigError for settings that cannot work, before anything is written."""
        split = self.corpus.split
        if split.validation == 0:
            raise ConfigError(
                "corpus.split.validation is 0, but distill validates on text held out: "
                "set it, e.g. to 0.01"
            )
        if split.validation + split.test >= 1:
            raise ConfigError(
                "corpus.split.validation and corpus.split.test leave nothing to train on: "
                "lower them"
            )
        check_sentinels(self.tokenizer, self.lengths)

    def totals(self, split: BuiltSplit) -> str:
        """Return the size and place of a finished split, for the console."""
        root = self.tokens_outputs[split].root
        totals = read_manifest(root).totals
        return f"{totals['rows']} rows, {totals['tokens']} tokens in {root}"


def check_sentinels(settings: Tokenizer, lengths: Lengths) -> None:
    """Raise ConfigError if a tokenizer to be trained would lack sentinels."""
    if settings.path is None and settings.sentinels < lengths.spans:
        raise ConfigError(
            f"an example of {lengths.raw} tokens needs {lengths.spans} sentinels, "
            f"but tokenizer.sentinels is {settings.sentinels}: "
            f"set tokenizer.sentinels={lengths.spans} or lower tokens.input_length"
        )


def too_little_text(
    job: TokenizeJob, split: BuiltSplit, *, block: int = 0, documents: int = 0, tokens: int = 0
) -> DataError:
    """Return the error of a block whose `documents` and `tokens` do not fill one example."""
    size = job.tokens.documents_per_shard
    if block > 0 or documents == size:  # one of several blocks, or perhaps so
        remedy = (
            f"raise tokens.documents_per_shard (now {size}), lower tokens.input_length or add text"
        )
    elif split == "validation":
        share = job.corpus.split.validation
        remedy = f"raise corpus.split.validation (now {share}) or add text"
    else:
        remedy = "add text to corpus.sources or lower tokens.input_length"
    return DataError(
        f"tokens/{split}: {documents} documents hold {tokens} tokens, "
        f"but one example needs {job.lengths.raw}: {remedy}"
    )


def resolve(recipe: Recipe) -> TokenizeJob:
    """Return the recipe's job; hashes the corpus files.

    Raises ConfigError if the recipe names no corpus, and DataError if one of its files is missing.
    """
    corpus = recipe.corpus
    if corpus is None:
        raise ConfigError("this recipe names no corpus: add `corpus: {sources: [FILE, …]}`")
    text = corpus.model_dump(exclude={"sources"}) | {
        "sources": [source_hash(source) for source in corpus.sources]
    }
    run, yaml = Run(recipe.root), recipe.to_yaml()
    payload = _tokenizer_payload(recipe.tokenizer, text)
    tokenizer = Output(run.tokenizer, "tokenizer", payload, yaml, {})
    outputs: dict[BuiltSplit, Output] = {}
    for split in BUILT_SPLITS:
        payload = {
            "stage": "tokens",
            "format": TOKENS_FORMAT,
            "split": split,
            "seed": recipe.seed,
            "corpus": text,
            "tokenizer": tokenizer.fingerprint,
            "settings": recipe.tokens.model_dump(),
        }
        outputs[split] = Output(run.tokens(split), "tokens", payload, yaml, {})
    return TokenizeJob(corpus, recipe.tokenizer, recipe.tokens, recipe.seed, tokenizer, outputs)


def _tokenizer_payload(settings: Tokenizer, text: Mapping[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = {"stage": "tokenizer", "format": TOKENIZER_FORMAT}
    if settings.path is None:
        return payload | {"corpus": text, "settings": settings.model_dump(exclude={"path"})}
    directory = Path(settings.path)
    local = directory.is_dir()
    content = tokenizer_hash(directory) if local else sha256_bytes(settings.path.encode())
    return payload | {"content": content}
