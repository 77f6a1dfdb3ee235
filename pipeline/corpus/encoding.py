"""Texts to token ids, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Texts encoded at once; bounds the memory of the encodings (some 100 bytes a token).
_TEXTS = 512


class Encoder:
    """An encoder of plain text with the run's tokenizer, without special tokens.

    It uses all the cores that the `tokenizers` library finds. It is the tokenizer that fine-tuning
    uses too, not the SentencePiece model behind it: that one is 5 times faster, but differs in
    exact ties. Text that spells a special token, such as "</s>" or "<extra_id_0>", becomes unknown
    tokens, because a sentinel in raw text would make the corruption ambiguous.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "the tokenizer has no end-of-sequence token: take another tokenizer.path"
            )
        self.eos: int = tokenizer.eos_token_id
        self.vocab_size: int = max(tokenizer.get_vocab().values()) + 1
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            # A tokenizer.json may ask for both, and a corpus needs neither.
            self._backend.no_truncation()
            self._backend.no_padding()
        special = set(tokenizer.all_special_ids) | {
            index
            for token, index in tokenizer.get_vocab().items()
            if token.startswith("<extra_id_")
        }
        unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else self.eos
        #: Maps every id to itself, special ones to the unknown token.
        self._plain = np.arange(self.vocab_size, dtype=np.uint32)
        self._plain[sorted(special)] = unknown

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The smallest of the two types that holds every id."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of every text: uint32 arrays of shape (tokens of that text,)."""
        documents: list[NDArray[np.uint32]] = []
        for start in range(0, len(texts), _TEXTS):
            ids = self._encode(list(texts[start : start + _TEXTS]))
            flat = self._plain[np.fromiter(chain.from_iterable(ids), np.int64, sum(map(len, ids)))]
            documents += np.split(flat, np.cumsum([len(part) for part in ids])[:-1])
        return documents

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if self._backend is None:  # written in Python, like ByT5's
            return list(
                self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            )
        return [
            encoding.ids
            for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)
        ]
