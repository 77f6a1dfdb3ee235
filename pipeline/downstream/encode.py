"""A task's examples as token ids of one model's tokenizer, and as the batches the training loop reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import say
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.errors import ConfigError, DataError
from pipeline.recipe import Task
from pipeline.stage_args import environment_rank

if TYPE_CHECKING:
    import torch

#: Lengths are padded up to a multiple of this, which matrix units like.
LENGTH_MULTIPLE = 8
#: What the loss leaves out, as everywhere in Transformers.
IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """Token ids of examples, special tokens included, unpadded; how many were cut to the task's lengths."""

    sources: list[list[int]]
    targets: list[list[int]]
    cut_sources: int
    cut_targets: int

    def part(self, span: slice) -> Encoded:
        """Some of the examples; the counts stay those of all."""
        return replace(self, sources=self.sources[span], targets=self.targets[span])


def load_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{directory}: its tokenizer cannot be loaded ({error})") from None
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{directory}: its tokenizer has no padding token")
    return tokenizer


def encode(tokenizer: Any, examples: Examples, task: Task) -> Encoded:
    """Tokenise `examples`, and say how many were too long."""
    sources, cut_sources = token_ids(tokenizer, examples.sources, task.source_length, target=False)
    targets, cut_targets = token_ids(tokenizer, examples.targets, task.target_length, target=True)
    for what, count, length in (
        ("sources", cut_sources, task.source_length),
        ("targets", cut_targets, task.target_length),
    ):
        if count:
            say_once(
                f"task {task.name}: {count} of {len(examples)} {what} of {examples.origin} were cut to {length} tokens"
            )
    return Encoded(sources, targets, cut_sources, cut_targets)


@cache
def say_once(message: str) -> None:
    """Print from rank 0 alone, and not again for the next model that meets the same."""
    if environment_rank()[0] == 0:
        say(message)


def encode_labels(tokenizer: Any, data: TaskData) -> list[list[int]]:
    """Token ids of each label text; raises DataError when the tokenizer cannot tell two of them apart."""
    assert data.labels is not None
    ids, _ = token_ids(tokenizer, data.labels, data.task.target_length, target=True)
    seen: dict[tuple[int, ...], str] = {}
    for label, tokens in zip(data.labels, ids, strict=True):
        other = seen.setdefault(tuple(tokens), label)
        if other != label:
            raise DataError(
                f"task {data.task.name}: labels {other!r} and {label!r} are the same {len(tokens)} tokens to this model's "
                "tokenizer: choose other label texts or a longer target_length"
            )
    return ids


def token_ids(
    tokenizer: Any, texts: Sequence[str], length: int, *, target: bool
) -> tuple[list[list[int]], int]:
    """Tokenise; texts of more than `length` tokens are cut, keeping the special tokens the tokenizer ends with.

    Returns token ids and how many texts were cut.
    """
    name = "text_target" if target else "text"
    # Without truncation first: that is the only way to learn which texts are too long.
    ids: list[list[int]] = tokenizer(**{name: list(texts)}, verbose=False)["input_ids"]
    long = [index for index, tokens in enumerate(ids) if len(tokens) > length]
    if long:
        cut = tokenizer(**{name: [texts[i] for i in long]}, truncation=True, max_length=length)[
            "input_ids"
        ]
        for index, tokens in zip(long, cut, strict=True):
            ids[index] = tokens
    return ids, len(long)


def pad(sequences: Sequence[Sequence[int]], value: int, length: int | None = None) -> torch.Tensor:
    """Right-pad to `length`, or to the longest; returns int64 (len(sequences), length)."""
    import torch

    length = length or max(map(len, sequences))
    return torch.tensor(
        [[*sequence, *[value] * (length - len(sequence))] for sequence in sequences]
    )


def round_up(length: int) -> int:
    return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


class EncodedSource:
    """A `BatchSource` over encoded examples, held in memory as one shard.

    `read` gives input_ids, attention_mask (rows, source) and labels (rows, target), int64, padded to the longest of these rows.
    """

    def __init__(self, encoded: Encoded, pad_token_id: int) -> None:
        count = len(encoded.sources)
        self.shard_rows = [count]
        self.mean_target_tokens = sum(map(len, encoded.targets)) / count
        #: What a row costs, in tokens, padded: texts of labels then do not tell rows apart, nor sort batches by label.
        self.lengths = [
            round_up(len(source)) + round_up(len(target))
            for source, target in zip(encoded.sources, encoded.targets, strict=True)
        ]
        self._encoded, self._pad = encoded, pad_token_id

    def read_ahead(self, shards: Sequence[int]) -> None:
        """All is in memory."""

    def read(self, rows: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        sources = [self._encoded.sources[row] for _, row in rows]
        targets = [self._encoded.targets[row] for _, row in rows]
        length = round_up(max(map(len, sources)))
        return {
            "input_ids": pad(sources, self._pad, length),
            "attention_mask": pad([[1] * len(source) for source in sources], 0, length),
            "labels": pad(targets, IGNORED, round_up(max(map(len, targets)))),
        }
