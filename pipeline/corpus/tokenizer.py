"""The tokenizer of a run: a SentencePiece unigram model trained on the corpus, or an existing one.

A trained one has T5's layout: <pad> 0, </s> 1, <unk> 2, pieces, then the sentinels backwards, so
<extra_id_0> has the last id. It is wrapped as a Transformers T5 tokenizer. That one cuts text as
the SentencePiece model does, except in exact ties between two segmentations (1 of 10,033 Wikipedia
introductions has one): SentencePiece sums scores over a whole document in float32, the wrapped
tokenizer over a word in float64.
"""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.documents import Document
from pipeline.corpus.lengths import Lengths
from pipeline.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Characters to train on at most. More text changes pieces little; each takes some 20 bytes.
TRAINING_CHARACTERS = 50_000_000
#: Fixed, because the sums of SentencePiece's training depend on how threads divide them: another
#: number gives another model.
TRAINING_THREADS = 4
#: SentencePiece skips lines of more bytes than this, so they are cut into parts of
#: _LINE_CHARACTERS.
_LINE_BYTES = 1 << 20
_LINE_CHARACTERS = 200_000


def train_model(documents: Iterable[Document], vocab_size: int) -> bytes:
    """Train a SentencePiece unigram model and return spiece.model.

    vocab_size: pieces, special tokens included.
    The same documents give the same bytes, in any order and on any number of cores. Raises
    DataError if the text is too little for this many pieces, naming the largest number that works,
    or has more characters than pieces.
    """
    import sentencepiece

    sample = sample_documents(documents, TRAINING_CHARACTERS)
    if not sample:
        raise DataError(
            "the training split holds no document: "
            "add text to corpus.sources or lower corpus.split's shares"
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(sample),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=0.9995,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece="<pad>",
            byte_fallback=False,
            num_threads=TRAINING_THREADS,
            max_sentence_length=_LINE_BYTES,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(str(error), vocab_size) from None
    return model.getvalue()


def sample_documents(documents: Iterable[Document], characters: int) -> list[str]:
    """Return the texts to train on, ordered by the hash of their text.

    These are all texts, or a sample of at most `characters`: the documents with the lowest hashes,
    so it does not depend on their order. A single document counts with its first `characters`
    characters. Memory is bounded by `characters`.
    """
    # A heap of the lowest hashes; heapq pops the smallest, so hashes are negated.
    heap: list[tuple[int, str]] = []
    held = 0
    for document in documents:
        text = document.text[:characters]
        digest = sha256(text.encode("utf-8")).digest()
        heapq.heappush(heap, (-int.from_bytes(digest[:8], "big"), text))
        held += len(text)
        while held > characters:
            held -= len(heapq.heappop(heap)[1])
    return [text for _, text in sorted(heap, reverse=True)]


def wrap_model(model: bytes, sentinels: int) -> PreTrainedTokenizerBase:
    """Wrap spiece.model as a T5 tokenizer of Transformers; `sentinels` sentinels come last."""
    from sentencepiece import sentencepiece_model_pb2
    from transformers import T5Tokenizer

    messages: Any = sentencepiece_model_pb2  # generated: has no types
    proto = messages.ModelProto()
    proto.ParseFromString(model)
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    vocab += [(f"<extra_id_{index}>", 0.0) for index in reversed(range(sentinels))]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    return T5Tokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap, extra_ids=sentinels)


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer directory or hub name; raises ConfigError of one line if that fails."""
    from transformers import AutoTokenizer

    if str(name).startswith((".", "/")) and not Path(name).is_dir():
        raise ConfigError(
            f"tokenizer {name}: no such directory; "
            "correct tokenizer.path, or leave it out to train one"
        )
    try:
        return AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(
            f"tokenizer {name} cannot be loaded ({reason}): correct tokenizer.path, "
            "leave it out to train one, or go online without HF_HUB_OFFLINE"
        ) from None


def sentinel_ids(tokenizer: PreTrainedTokenizerBase, lengths: Lengths) -> NDArray[np.uint32]:
    """Return the ids of <extra_id_0>, <extra_id_1>, …: uint32 (lengths.spans,).

    Raises ConfigError if the tokenizer has too few of them.
    """
    vocab = tokenizer.get_vocab()
    names = [f"<extra_id_{index}>" for index in range(lengths.spans)]
    ids = [vocab[name] for name in names if name in vocab]
    if len(ids) < len(names):
        have = f"has {len(ids)} of them" if ids else "has no sentinels <extra_id_0> …"
        raise ConfigError(
            f"an example of {lengths.raw} tokens needs {lengths.spans} sentinels, "
            f"but the tokenizer {have}: take another tokenizer.path, "
            "leave it out to train one, or lower tokens.input_length"
        )
    return np.array(ids, np.uint32)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            # SentencePiece refuses a line with a null character, which means nothing in text.
            line = line.replace("\0", " ")
            for start in range(0, len(line), _LINE_CHARACTERS):
                yield line[start : start + _LINE_CHARACTERS]


def _explain(message: str, vocab_size: int) -> DataError:
    if most := re.search(r"too high .*<= (\d+)", message):
        return DataError(
            f"the training split holds too little text for {vocab_size} pieces: "
            f"set tokenizer.vocab_size={most[1]} or less, or add text"
        )
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return DataError(
            f"the training split has too many different characters for {vocab_size} pieces: "
            f"set tokenizer.vocab_size={least[1]} or more"
        )
    return DataError(
        f"SentencePiece cannot train on the training split ({message}): "
        "look for what is odd in its text"
    )
