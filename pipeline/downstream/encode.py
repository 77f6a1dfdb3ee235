"""Examples of a task as token ids of one model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from pipeline.console import say
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.errors import DataError
from pipeline.ranks import environment_rank
from pipeline.recipe import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

#: Lengths are padded up to a multiple of this, which suits matrix units.
LENGTH_MULTIPLE = 8


@dataclass(frozen=True)
class Encoded:
    """Token ids of examples, special tokens included, unpadded.

    The counts say how many texts were cut to the task's lengths.
    """

    sources: list[list[int]]
    targets: list[list[int]]
    cut_sources: int
    cut_targets: int

    def part(self, span: slice) -> Encoded:
        """Return some of the examples; the counts stay those of all."""
        return replace(self, sources=self.sources[span], targets=self.targets[span])


def encode(tokenizer: PreTrainedTokenizerBase, examples: Examples, task: Task) -> Encoded:
    """Tokenise `examples`, and report how many were too long."""
    sources, cut_sources = token_ids(tokenizer, examples.sources, task.source_length, target=False)
    targets, cut_targets = token_ids(tokenizer, examples.targets, task.target_length, target=True)
    for what, count, length in (
        ("sources", cut_sources, task.source_length),
        ("targets", cut_targets, task.target_length),
    ):
        if count:
            say_once(
                f"task {task.name}: {count} of {len(examples)} {what} of {examples.origin} "
                f"were cut to {length} tokens"
            )
    return Encoded(sources, targets, cut_sources, cut_targets)


@cache
def say_once(message: str) -> None:
    """Print from rank 0 alone, and not again for the next model with the same message."""
    if environment_rank()[0] == 0:
        say(message)


def encode_labels(tokenizer: PreTrainedTokenizerBase, data: TaskData) -> list[list[int]]:
    """Return the token ids of each label text.

    Raises DataError when two of them are the same tokens.
    """
    assert data.labels is not None
    ids, _ = token_ids(tokenizer, data.labels, data.task.target_length, target=True)
    seen: dict[tuple[int, ...], str] = {}
    for label, tokens in zip(data.labels, ids, strict=True):
        other = seen.setdefault(tuple(tokens), label)
        if other != label:
            raise DataError(
                f"task {data.task.name}: labels {other!r} and {label!r} are the same "
                f"{len(tokens)} tokens to this model's tokenizer: choose other label texts "
                "or a longer target_length"
            )
    return ids


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int, *, target: bool
) -> tuple[list[list[int]], int]:
    """Tokenise texts, and cut those of more than `length` tokens.

    A cut text keeps the special tokens that the tokenizer ends with. Returns the token ids, and how
    many texts were cut.
    """
    name = "text_target" if target else "text"
    # Without truncation first: that is the only way to learn which texts are too long.
    ids: list[list[int]] = tokenizer(**{name: list(texts)}, verbose=False)["input_ids"]
    long = [index for index, tokens in enumerate(ids) if len(tokens) > length]
    if long:
        long_texts = [texts[index] for index in long]
        cut = tokenizer(**{name: long_texts}, truncation=True, max_length=length)["input_ids"]
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
