"""The rows that the corpus gives."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.corpus.lengths import example_lengths
from pipeline.corpus.tokens import open_tokens
from pipeline.errors import ConfigError
from pipeline.layout import Run
from pipeline.recipe import Tokens


@dataclass(frozen=True)
class CorpusRows:
    """The number of examples the corpus gives, and their lengths."""

    #: Over all views.
    rows: int
    input_length: int
    target_length: int
    #: Tokens of text in one example.
    raw_length: int
    #: None before the tokens are there: the number of documents is not known.
    shards: int | None
    #: Where the number comes from, for people.
    source: str

    @property
    def lengths(self) -> tuple[int, int]:
        return self.input_length, self.target_length

    @property
    def positions(self) -> int:
        return self.input_length + self.target_length


def rows_of(run: Run, settings: Tokens, tokens: float | None) -> CorpusRows:
    """Return the rows that `tokens` tokens of text give, or those of a finished RUN/tokens/train.

    Raises ConfigError if neither is there.
    """
    lengths = example_lengths(
        settings.input_length, settings.noise_density, settings.mean_span_length
    )
    if tokens is None:
        return _finished_rows(run, lengths.raw)
    count = int(tokens) // lengths.raw * settings.views
    if not count:
        raise ConfigError(f"--tokens {tokens:g} is less than one example of {lengths.raw} tokens")
    return CorpusRows(
        count,
        lengths.input,
        lengths.target,
        lengths.raw,
        shards=None,
        source=f"{tokens:.3g} tokens of text, {settings.views} view(s)",
    )


def _finished_rows(run: Run, raw_length: int) -> CorpusRows:
    root = run.tokens("train")
    if not (root / "manifest.json").is_file():
        raise ConfigError(
            f"how large is the corpus? {root} is not there yet: give --tokens, "
            "e.g. --tokens 10B, or run stages/tokenize_corpus.py first"
        )
    artifact = open_tokens(run, "train")
    columns = artifact.shards[0].columns
    return CorpusRows(
        artifact.manifest.totals["rows"],
        columns["input_ids"].row_shape[0],
        columns["labels"].row_shape[0],
        raw_length,
        shards=len(artifact.shards),
        source=str(root),
    )
