"""A task's rows as text-to-text examples: one source and one target string each, the same for every model compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.downstream.rows import Row, read_rows
from pipeline.errors import DataError
from pipeline.recipe import Task


@dataclass(frozen=True)
class Examples:
    """Rendered rows of one part of a task, in the order of the file."""

    origin: str
    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    #: Position of each example among the rows of `origin`, from 0.
    rows: list[int] = field(default_factory=list)
    #: Rows left out: an empty source or target, or a label of `drop_labels`.
    empty: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.sources)

    def spread(self, count: int | None) -> Examples:
        """At most `count` examples, evenly spaced, so that a file sorted by label is still represented."""
        if count is None or count >= len(self):
            return self
        kept = [i * len(self) // count for i in range(count)]
        return Examples(
            self.origin,
            [self.sources[i] for i in kept],
            [self.targets[i] for i in kept],
            [self.rows[i] for i in kept],
            self.empty,
            self.dropped,
        )


@dataclass(frozen=True)
class TaskData:
    """Everything of a task but the tokenizer. `labels` is None for a generation task."""

    task: Task
    train: Examples
    validation: Examples | None
    test: Examples
    labels: list[str] | None


def load_task(task: Task) -> TaskData:
    """Read and render a task, and check every label.

    Raises DataError with one line: a missing file or column, a label outside the set (with file and row), nothing left.
    """
    train = _examples(task, task.train, "train")
    validation = _examples(task, task.validation, "validation") if task.validation else None
    test = _examples(task, task.test, "test").spread(task.test_rows)
    labels = _labels(task, train) if task.kind == "classification" else None
    if labels is not None:
        for part in (train, validation, test):
            if part is not None:
                _check_labels(task, part, labels)
    return TaskData(task, train, validation, test, labels)


def _examples(task: Task, origin: str, part: str) -> Examples:
    sources, targets, kept = [], [], []
    empty = dropped = 0
    for number, row in enumerate(read_rows(origin, part)):
        source = _render(task, "source", row, origin, number)
        target = _render(task, "target", row, origin, number)
        if target in task.drop_labels:
            dropped += 1
        elif not target or not _has_content(task.source, row):
            empty += 1
        else:
            sources.append(source)
            targets.append(target)
            kept.append(number)
    if not sources:
        raise DataError(f"task {task.name}: {origin} has no row left ({empty} empty, {dropped} dropped)")
    return Examples(origin, sources, targets, kept, empty, dropped)


def _render(task: Task, which: str, row: Row, origin: str, number: int) -> str:
    template: str = getattr(task, which)
    values = {key: "" if value is None else value for key, value in row.items()}
    try:
        return template.format_map(values).strip()
    except KeyError as error:
        raise DataError(
            f"task {task.name}: its {which} names column {error.args[0]!r}, but row {number + 1} of {origin} has "
            f"{', '.join(map(str, row)) or 'none'}"
        ) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise DataError(f"task {task.name}: its {which} {template!r} cannot be filled in: {error}") from None


def _has_content(template: str, row: Row) -> bool:
    """Whether any column the template names holds text; "summarize: " alone is no example."""
    import string

    names = [name.split(".")[0].split("[")[0] for _, name, _, _ in string.Formatter().parse(template) if name]
    return any(str(row[name]).strip() for name in names if row[name] is not None)


def _labels(task: Task, train: Examples) -> list[str]:
    labels = task.labels if task.labels is not None else sorted(set(train.targets))
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated or len(labels) < 2:
        fault = f"{', '.join(repeated)} occurs twice" if repeated else f"{len(labels)} is too few"
        raise DataError(f"task {task.name}: classification needs two or more different labels, but {fault}")
    return labels


def _check_labels(task: Task, part: Examples, labels: Sequence[str]) -> None:
    known = set(labels)
    for target, row in zip(part.targets, part.rows, strict=True):
        if target not in known:
            shown = ", ".join(labels[:12]) + (", …" if len(labels) > 12 else "")
            raise DataError(
                f"task {task.name}: row {row + 1} of {part.origin} has label {target!r}, which is none of {shown}"
            )
