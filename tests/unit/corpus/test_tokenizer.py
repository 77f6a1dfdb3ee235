"""The tokenizer has T5's layout, reloads and cuts as SentencePiece does.

Training it again gives the same one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.corpus.documents import Document, iter_documents
from pipeline.corpus.encoding import Encoder
from pipeline.corpus.job import check_sentinels
from pipeline.corpus.lengths import example_lengths
from pipeline.corpus.tokenizer import (
    load_tokenizer,
    sample_documents,
    sentinel_ids,
    train_model,
    wrap_model,
)
from pipeline.errors import ConfigError, DataError
from pipeline.recipe import Corpus, Tokenizer

PIECES, SENTINELS = 900, 30


@pytest.fixture(scope="module")
def documents(few_documents: Path) -> list[Document]:
    return list(iter_documents(Corpus(sources=[str(few_documents)], text="extract", key="title")))


@pytest.fixture(scope="module")
def model(documents: list[Document]) -> bytes:
    return train_model(documents, PIECES)


@pytest.fixture(scope="module")
def directory(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    wrap_model(model, SENTINELS).save_pretrained(str(path))
    return path


def test_training_is_a_function_of_the_documents(documents: list[Document], model: bytes) -> None:
    assert train_model(reversed(documents), PIECES) == model
    assert train_model(documents[1:], PIECES) != model


def test_the_layout_is_t5s(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    assert len(tokenizer) == PIECES + SENTINELS
    tokens = ["<pad>", "</s>", "<unk>", "<extra_id_0>", f"<extra_id_{SENTINELS - 1}>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [0, 1, 2, PIECES + SENTINELS - 1, PIECES]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    text = "The town lies near the river <extra_id_0> in the north."
    ids = tokenizer(text)["input_ids"]
    assert (ids[-1], PIECES + SENTINELS - 1 in ids) == (1, True)
    assert tokenizer.decode(
        tokenizer("The town lies near the river.")["input_ids"], skip_special_tokens=True
    ) == ("The town lies near the river.")


def test_it_cuts_text_as_sentencepiece_does(
    documents: list[Document], model: bytes, directory: Path
) -> None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [document.text for document in documents]
    texts += ["", "  spaces \t and\n\nlines ", "ﬁne ½ Ａ é", "日本の☃ 🙂🙂", "a" * 300]
    differing = 0
    for text, ids in zip(texts, Encoder(load_tokenizer(directory))(texts), strict=True):
        expected = processor.encode(text)
        if ids.tolist() != expected:
            # Two segmentations of exactly the same score; which one wins is a matter of rounding.
            differing += 1
            scores = [sum(processor.get_score(int(i)) for i in side) for side in (ids, expected)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-6), text
    assert differing <= 1


def test_the_encoder_agrees_with_the_tokenizer(documents: list[Document], directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    encoder = Encoder(tokenizer)
    texts = [document.text for document in documents[:50]]
    assert [ids.tolist() for ids in encoder(texts * 11)] == tokenizer(
        texts, add_special_tokens=False
    )["input_ids"] * 11
    assert (encoder.eos, encoder.vocab_size, encoder.dtype) == (1, PIECES + SENTINELS, np.uint16)
    # A special token spelled out in the corpus is text, not the end of a document or a sentinel.
    ids = encoder(["one </s> two <extra_id_3> three <pad>"])[0]
    assert not set(ids.tolist()) & {0, 1, *range(PIECES, PIECES + SENTINELS)}
    assert (ids == 2).sum() >= 3


def test_too_little_text_names_the_largest_vocabulary(documents: list[Document]) -> None:
    with pytest.raises(
        DataError, match=r"too little text for 9000 pieces: set tokenizer.vocab_size=\d+ or less"
    ) as caught:
        train_model(documents[:20], 9000)
    largest = int(str(caught.value).split("vocab_size=")[1].split()[0])
    assert len(wrap_model(train_model(documents[:20], largest), 1)) == largest + 1
    with pytest.raises(DataError, match=rf"set tokenizer.vocab_size={largest} or less"):
        train_model(documents[:20], largest + 1)
    with pytest.raises(
        DataError,
        match=r"too many different characters for 9 pieces: set tokenizer.vocab_size=\d+ or more",
    ):
        train_model(documents[:20], 9)
    with pytest.raises(DataError, match="no document"):
        train_model([], 900)


def test_missing_sentinels_are_counted(model: bytes, tmp_path: Path) -> None:
    lengths = example_lengths(512, 0.15, 3.0)
    with pytest.raises(
        ConfigError,
        match=r"needs 28 sentinels, but tokenizer.sentinels is 27: set tokenizer.sentinels=28",
    ):
        check_sentinels(Tokenizer(sentinels=27), lengths)
    check_sentinels(Tokenizer(sentinels=28), lengths)
    with pytest.raises(ConfigError, match="needs 28 sentinels, but the tokenizer has 5 of them"):
        sentinel_ids(wrap_model(model, 5), lengths)
    with pytest.raises(ConfigError, match="has no sentinels"):
        sentinel_ids(wrap_model(model, 0), lengths)
    assert sentinel_ids(wrap_model(model, 30), lengths).tolist() == [
        PIECES + 29 - k for k in range(28)
    ]
    with pytest.raises(ConfigError, match="no such directory"):
        load_tokenizer(tmp_path / "gone")


def test_the_sample_does_not_depend_on_the_order(documents: list[Document]) -> None:
    total = sum(len(document.text) for document in documents)
    sample = sample_documents(documents, total // 4)
    assert total // 5 < sum(map(len, sample)) <= total // 4
    assert sample_documents(reversed(documents), total // 4) == sample
    assert sorted(sample_documents(documents, total)) == sorted(
        document.text for document in documents
    )
