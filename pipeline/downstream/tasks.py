"""Rows of a task as text-to-text examples: one source and one target string each.

They are the same for every model compared.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.corpus.source_identity import source_hash
from pipeline.downstream.task_rows import Row, read_rows
from pipeline.errors import DataError
from pipeline.recipe import Task, Values


@dataclass(frozen=True)
class Examples:
    """Rendered rows of one part of a task, in the order of the file."""

    origin: str
    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    #: Compared with the predictions: the target, or the number before a regression rounded it.
    references: list[str | float] = field(default_factory=list)
    #: Position of each example among the rows of `origin`, from 0.
    rows: list[int] = field(default_factory=list)
    #: Rows left out: an empty source or target, or a label of `drop_labels`.
    empty: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def duplicated(self) -> int:
        """The number of examples with the source and target of an earlier one."""
        return len(self) - len(set(zip(self.sources, self.targets, strict=True)))

    def only(self, kept: Sequence[int]) -> Examples:
        return replace(
            self,
            sources=[self.sources[i] for i in kept],
            targets=[self.targets[i] for i in kept],
            references=[self.references[i] for i in kept],
            rows=[self.rows[i] for i in kept],
        )

    def spread(self, count: int | None) -> Examples:
        """Return at most `count` examples, evenly spaced.

        Part of a file sorted by label then still holds every label.
        """
        if count is None or count >= len(self):
            return self
        return self.only([i * len(self) // count for i in range(count)])


@dataclass(frozen=True)
class TaskData:
    """The examples and labels of a task; no tokenizer has seen them yet."""

    task: Task
    train: Examples
    validation: Examples
    test: Examples
    more_tests: dict[str, Examples]
    #: The texts that a prediction is chosen from; None for a generation task.
    labels: list[str] | None

    @property
    def positive(self) -> str | None:
        """The label that `f1` is about; None without labels."""
        return self.task.positive or (self.labels[-1] if self.labels else None)

    def tests(self) -> dict[str, Examples]:
        """Return every test set by the prefix of its scores' names: "" for the task's own."""
        return {"": self.test, **{f"{name}/": part for name, part in self.more_tests.items()}}


def load_task(task: Task, validation_rows: int) -> TaskData:
    """Read and render a task, and check every label.

    validation_rows: the most rows that validate. Where the task names no validation rows, this many
    training rows are held out, and at most a tenth.
    Raises DataError with one line: a missing file or column, a label outside the set (with file and
    row), nothing left.
    """
    train = _examples(task, task.train, "train")
    test = _examples(task, task.test, "test").spread(task.test_rows)
    more = {
        name: _examples(task, origin, "test").spread(task.test_rows)
        for name, origin in task.more_tests.items()
    }
    validation = _examples(task, task.validation, "validation") if task.validation else None
    if validation is None:
        train, validation = hold_out(train, min(len(train) // 10, validation_rows))
    labels = None
    if task.kind == "classification":
        labels = _labels(task, train)
        for part in (train, validation, test, *more.values()):
            _check_labels(task, part, labels)
    elif task.values is not None:
        labels = task.values.texts()
    return TaskData(task, train, validation.spread(validation_rows), test, more, labels)


def hold_out(train: Examples, count: int) -> tuple[Examples, Examples]:
    """Divide training examples into those kept and those held out: `count` or more, at least 1.

    The choice depends on their sources alone; examples with the same source stay together.
    """
    digests = [hashlib.sha256(source.encode()).digest() for source in train.sources]
    held_out = set()
    held = 0
    for index in sorted(range(len(train)), key=lambda i: digests[i]):
        if held >= max(count, 1) and digests[index] not in held_out:
            break
        held_out.add(digests[index])
        held += 1
    if held == len(train):
        raise DataError(
            f"{train.origin} has too few different rows to hold some out: name `validation` rows"
        )
    sides: tuple[list[int], list[int]] = ([], [])
    for index, digest in enumerate(digests):
        sides[digest in held_out].append(index)
    return train.only(sides[0]), train.only(sides[1])


def unlabelled(task: Task, train: Examples) -> Examples:
    """Return sources for a teacher to label: of `task.unlabelled`, or of the training rows."""
    if task.unlabelled is None:
        return train
    sources, kept, empty = [], [], 0
    for number, row in enumerate(read_rows(task.unlabelled, "train")):
        source = _render(task, "source", row, task.unlabelled, number)
        if _has_content(task.source, row):
            sources.append(source)
            kept.append(number)
        else:
            empty += 1
    if not sources:
        raise DataError(f"task {task.name}: {task.unlabelled} has no row left ({empty} empty)")
    return Examples(task.unlabelled, sources, [""] * len(sources), [""] * len(sources), kept, empty)


def _examples(task: Task, origin: str, part: str) -> Examples:
    examples = Examples(origin)
    empty = dropped = 0
    named = task.labels if isinstance(task.labels, dict) else {}
    for number, row in enumerate(read_rows(origin, part)):
        source = _render(task, "source", row, origin, number)
        target = _render(task, "target", row, origin, number)
        if target in task.drop_labels or named.get(target) in task.drop_labels:
            dropped += 1
        elif not target or not _has_content(task.source, row):
            empty += 1
        else:
            text: str = named.get(target, target)
            reference: str | float = text
            if task.values is not None:
                value = _number(task, task.values, target, origin, number)
                text, reference = task.values.text(value), value
            examples.sources.append(source)
            examples.targets.append(text)
            examples.references.append(reference)
            examples.rows.append(number)
    if not examples.sources:
        raise DataError(
            f"task {task.name}: {origin} has no row left ({empty} empty, {dropped} dropped)"
        )
    if source_hash(origin, again=True) != source_hash(origin):
        raise DataError(
            f"task {task.name}: {origin} changed while this run was reading it: start again"
        )
    return replace(examples, empty=empty, dropped=dropped)


def _number(task: Task, values: Values, text: str, origin: str, row: int) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(
            f"task {task.name}: row {row + 1} of {origin} has {text!r}, which is no number"
        ) from None
    if not values.low <= value <= values.high:
        raise DataError(
            f"task {task.name}: row {row + 1} of {origin} has {value:g}, which is outside "
            f"{values.low:g} to {values.high:g}: widen `values`"
        )
    return value


def _render(task: Task, which: str, row: Row, origin: str, number: int) -> str:
    template: str = getattr(task, which)
    values = {key: "" if value is None else value for key, value in row.items()}
    try:
        return template.format_map(values).strip()
    except KeyError as error:
        raise DataError(
            f"task {task.name}: its {which} names column {error.args[0]!r}, but row {number + 1} "
            f"of {origin} has {', '.join(map(str, row)) or 'none'}"
        ) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise DataError(
            f"task {task.name}: its {which} {template!r} cannot be filled in: {error}"
        ) from None


def _has_content(template: str, row: Row) -> bool:
    """Return whether a column in the template holds text; "summarize: " alone is no example."""
    names = [
        name.split(".")[0].split("[")[0]
        for _, name, _, _ in string.Formatter().parse(template)
        if name
    ]
    return any(str(row[name]).strip() for name in names if row[name] is not None)


def _labels(task: Task, train: Examples) -> list[str]:
    labels = task.label_texts() if task.labels is not None else sorted(set(train.targets))
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated or len(labels) < 2:
        fault = f"{', '.join(repeated)} occurs twice" if repeated else f"{len(labels)} is too few"
        raise DataError(
            f"task {task.name}: classification needs two or more different labels, but {fault}"
        )
    if task.positive is not None and task.positive not in labels:
        raise DataError(f"task {task.name}: positive {task.positive!r} is none of {_shown(labels)}")
    return labels


def _check_labels(task: Task, part: Examples, labels: Sequence[str]) -> None:
    known = set(labels)
    for target, row in zip(part.targets, part.rows, strict=True):
        if target not in known:
            raise DataError(
                f"task {task.name}: row {row + 1} of {part.origin} has label {target!r}, which is "
                f"none of {_shown(labels)} (`drop_labels: [{target!r}]` leaves such rows out)"
            )


def _shown(labels: Sequence[str]) -> str:
    return ", ".join(labels[:12]) + (", …" if len(labels) > 12 else "")
