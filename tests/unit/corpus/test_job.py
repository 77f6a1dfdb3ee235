"""The job of stage 1 has the places and identities that its settings give, and refuses bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.corpus.job import resolve
from pipeline.errors import ConfigError, DataError
from pipeline.recipe import Recipe


def recipe(**sections: object) -> Recipe:
    corpus = {"sources": ["hub:text:en"], "key": "id"}
    return Recipe.model_validate({"run": "runs/a", "seed": 7, "corpus": corpus, **sections})


def test_the_fingerprints_are_pinned() -> None:
    # Tokens made by another release must be recognised, or its format version raised.
    job = resolve(recipe(tokens={"views": 2}))
    assert job.tokenizer_output.root == Path("runs/a/tokens/tokenizer")
    assert job.tokenizer_output.fingerprint.startswith("5f6c845263b124b0")
    assert {split: output.fingerprint[:16] for split, output in job.tokens_outputs.items()} == {
        "validation": "083d08ea5c69b9f1",
        "train": "cd5e090d7ca1f410",
    }
    copied = resolve(recipe(tokenizer={"path": "google-t5/t5-small"}))
    assert copied.tokenizer_output.fingerprint.startswith("f7584600aee83da4")


def test_a_corpus_is_needed() -> None:
    with pytest.raises(ConfigError, match="names no corpus: add `corpus:"):
        resolve(recipe(corpus=None))
    with pytest.raises(DataError, match=r"gone\.txt does not exist"):
        resolve(recipe(corpus={"sources": ["gone.txt"]}))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"validation": 0}, "corpus.split.validation is 0"),
        ({"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
    ],
)
def test_shares_that_cannot_work_are_refused(split: dict[str, float], message: str) -> None:
    job = resolve(recipe(corpus={"sources": ["hub:text:en"], "split": split}))
    with pytest.raises(ConfigError, match=message):
        job.check()
