"""Sections of the text and of the tokens made from it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.recipe.section import ByContent, Fraction, PositiveInt, Section


class Split(Section):
    """Shares of the documents that are held out.

    A hash of each document's key chooses them, so they never move.
    """

    validation: Fraction = 0.01
    """Share of the documents whose loss is watched during training."""
    test: Fraction = 0.0
    """Share of the documents kept apart, as text that no model has seen."""


class Corpus(Section):
    """The text that the tokens are made from."""

    sources: Annotated[list[str], ByContent] = Field(min_length=1)
    """Files (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet) or `datasets` names, written
    `hub:NAME[:CONFIG[:SPLIT]]`. A `hub:` source is known by its name alone."""
    text: str = "text"
    """The field that holds a document's text in .jsonl, .parquet and datasets."""
    key: str | None = None
    """The field whose hash decides the split. When absent, the text itself is hashed."""
    split: Split = Split()
    """The documents held out."""


class Tokenizer(Section):
    """The tokenizer of the run: trained on the corpus, or taken as it is."""

    path: Annotated[str | None, ByContent] = None
    """A tokenizer directory or hub name to use as it is.
    When absent, a SentencePiece model is trained on the corpus."""
    vocab_size: PositiveInt = 8000
    """Pieces to train, with the special tokens, without the sentinels."""
    sentinels: PositiveInt = 100
    """Sentinel tokens `<extra_id_0>` … added after the pieces."""


class Tokens(Section):
    """Span corruption with T5's own arithmetic (Raffel et al. 2020, section 3.1.4)."""

    input_length: PositiveInt = 512
    """Tokens in the corrupted input of one row. The length of the targets follows from it."""
    noise_density: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of the tokens that are masked."""
    mean_span_length: Annotated[float, Field(ge=1.0)] = 3.0
    """Mean number of tokens in a masked span."""
    views: PositiveInt = 1
    """Independent corruptions of the corpus."""
    documents_per_shard: PositiveInt = 10_000
    """Consecutive documents that make one shard, once for each view."""
