"""Confidence intervals and paired significance by resampling the test rows (Efron 1979; Koehn 2004 for pairs of systems).

A resample says how often each row occurs. Rows on which all models say the same are drawn together, as one outcome of a
multinomial: thousands of rows of a classification are a few outcomes, and a thousand resamples cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: What lies outside on either side of an interval.
TAIL = 0.025
_SEED = 20
_AT_ONCE = 1 << 21


class Column(NamedTuple):
    """One model's test rows as one metric sees them, (rows, 1 or 2): a score each; or prediction and reference, as numbers."""

    metric: str
    values: Floats
    #: The number of the label whose F1 `f1` is.
    positive: int = -1


class Difference(NamedTuple):
    difference: float
    low: float
    high: float
    #: Two-sided: twice the share of resamples in which the difference vanishes or turns round; at least 2 / (resamples + 1).
    p_value: float


def interval(columns: Sequence[Column], resamples: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over `columns` (the seeds of one model) of their metric."""
    found = _means(resampled(columns, resamples))
    low, high = np.quantile(found, [TAIL, 1 - TAIL])
    return float(low), float(high)


def difference(ours: Sequence[Column], theirs: Sequence[Column], resamples: int) -> Difference:
    """How much the mean over `ours` is above that over `theirs`, on the same rows, resampled together."""
    found = resampled([*ours, *theirs], resamples)
    apart = _means(found[: len(ours)]) - _means(found[len(ours) :])
    point = float(np.mean([value(c) for c in ours]) - np.mean([value(c) for c in theirs]))
    low, high = np.quantile(apart, [TAIL, 1 - TAIL])
    against = min(int((apart <= 0).sum()), int((apart >= 0).sum()))
    return Difference(point, float(low), float(high), min(1.0, 2 * (against + 1) / (resamples + 1)))


def value(column: Column) -> float:
    """The metric over all rows."""
    return float(_statistic(column, column.values, np.ones((1, len(column.values))))[0])


def resampled(columns: Sequence[Column], resamples: int) -> Floats:
    """The metric of each column in each resample, (columns, resamples); the same resamples for all of them."""
    rows = len(columns[0].values)
    assert all(len(column.values) == rows for column in columns), "columns are of different rows"
    outcomes, counts = np.unique(
        np.concatenate([c.values for c in columns], 1), axis=0, return_counts=True
    )
    ends = np.cumsum([column.values.shape[1] for column in columns])
    parts = np.split(outcomes, ends[:-1], axis=1)
    found = [
        [_statistic(column, part, drawn) for column, part in zip(columns, parts, strict=True)]
        for drawn in _draws(counts, resamples)
    ]
    return np.concatenate(found, axis=1)


def _draws(counts: NDArray[np.int64], resamples: int) -> Iterator[Floats]:
    generator = np.random.Generator(np.random.Philox(_SEED))
    rows = int(counts.sum())
    step = max(1, _AT_ONCE // len(counts))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        yield generator.multinomial(rows, counts / rows, size=size).astype(np.float64)


def _means(found: Floats) -> Floats:
    mean: Floats = found.mean(0)
    return mean


def _statistic(column: Column, outcomes: Floats, counts: Floats) -> Floats:
    """outcomes: (outcomes, 1 or 2); counts: (resamples, outcomes). Returns (resamples,)."""
    if column.metric in ("pearson", "spearman"):
        x, y = outcomes[:, 0], outcomes[:, 1]
        if column.metric == "spearman":
            return _correlation(_ranks(x, counts), _ranks(y, counts), counts)
        return _correlation(x[None], y[None], counts)
    rows = counts.sum(1)
    if outcomes.shape[1] == 1:
        mean: Floats = counts @ outcomes[:, 0] / rows
        return mean
    labels = np.unique(outcomes)
    said, true = (np.equal.outer(outcomes[:, side], labels).astype(np.float64) for side in (0, 1))
    hits, said, true = counts @ (said * true), counts @ said, counts @ true
    if column.metric == "matthews":
        above = hits.sum(1) * rows - (said * true).sum(1)
        return _quotient(
            above, np.sqrt((rows**2 - (said**2).sum(1)) * (rows**2 - (true**2).sum(1)))
        )
    f1 = _quotient(2 * hits, said + true)
    if column.metric == "f1":
        return f1 @ (labels == column.positive)
    return _quotient(f1.sum(1), ((said + true) > 0).sum(1).astype(np.float64))


def _correlation(x: Floats, y: Floats, counts: Floats) -> Floats:
    rows = counts.sum(1, keepdims=True)
    x = x - (counts * x).sum(1, keepdims=True) / rows
    y = y - (counts * y).sum(1, keepdims=True) / rows
    squares = (counts * x * x).sum(1) * (counts * y * y).sum(1)
    # What rounding leaves of a constant is no spread.
    return _quotient((counts * x * y).sum(1), np.sqrt(np.where(squares > 1e-18, squares, 0.0)))


def _ranks(x: Floats, counts: Floats) -> Floats:
    """The mean rank of each outcome among the rows drawn; ties share theirs."""
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.diff(x[order], prepend=-np.inf))
    drawn = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = np.cumsum(drawn, 1) - (drawn - 1) / 2
    level = np.empty(len(x), np.int64)
    level[order] = np.searchsorted(starts, np.arange(len(x)), side="right") - 1
    return ranks[:, level]


def _quotient(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)
