"""What the tokens are made from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.recipe.base import Fraction, PositiveInt, Section


class Split(Section):
    """Shares of documents held out, chosen by a hash of each document's key so that they never move."""

    validation: Fraction = 0.01
    test: Fraction = 0.0


class Corpus(Section):
    #: Files (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet) or `datasets` names written `hub:NAME[:CONFIG[:SPLIT]]`.
    sources: list[str] = Field(min_length=1)
    #: The field that holds a document's text in .jsonl, .parquet and datasets.
    text: str = "text"
    #: The field whose hash decides the split; the text itself when absent.
    key: str | None = None
    split: Split = Split()


class Tokenizer(Section):
    #: A tokenizer directory or hub name to use as it is; a SentencePiece model is trained on the corpus when absent.
    path: str | None = None
    #: Pieces to train, special tokens included, sentinels not.
    vocab_size: PositiveInt = 8000
    #: Sentinel tokens <extra_id_0> … added after the pieces.
    sentinels: PositiveInt = 100


class Tokens(Section):
    """Span corruption in T5's own arithmetic (Raffel et al. 2020, section 3.1.4)."""

    input_length: PositiveInt = 512
    noise_density: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    mean_span_length: Annotated[float, Field(ge=1.0)] = 3.0
    #: Independent corruptions of the corpus.
    views: PositiveInt = 1
    #: Consecutive documents that make one shard (times the views).
    documents_per_shard: PositiveInt = 10_000
