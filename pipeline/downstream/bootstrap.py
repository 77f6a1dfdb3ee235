"""Confidence intervals and paired significance by resampling the test rows.

Efron 1979; Koehn 2004 for pairs of systems. A resample says how often each row occurs. Rows on
which all models predict the same are drawn together, as one outcome of a multinomial. Thousands of
rows of a classification are a few outcomes, and a thousand resamples cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: The share of resamples outside an interval, on either side.
TAIL = 0.025
_SEED = 20
#: Counts of outcomes drawn at once; bounds the memory.
_AT_ONCE = 1 << 21


class MetricColumn(NamedTuple):
    """The test rows of one model as one metric sees them."""

    metric: str
    #: (rows, 1): a score each; or (rows, 2): prediction and reference, as numbers.
    values: Floats
    #: The number of the label that `f1` is about.
    positive: int = -1


class PairedDifference(NamedTuple):
    difference: float
    low: float
    high: float
    #: Two-sided: twice the share of resamples in which the difference vanishes or changes its
    #: sign; at least 2 / (resamples + 1).
    p_value: float


def interval(columns: Sequence[MetricColumn], resamples: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of a metric's mean over the seeds of one model.

    columns: one for each seed.
    """
    means = _means(resampled(columns, resamples))
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    return float(low), float(high)


def difference(
    a: Sequence[MetricColumn], b: Sequence[MetricColumn], resamples: int
) -> PairedDifference:
    """Return the mean over `a` minus the mean over `b`, on the same rows resampled together."""
    values = resampled([*a, *b], resamples)
    differences = _means(values[: len(a)]) - _means(values[len(a) :])
    point = float(np.mean([value(c) for c in a]) - np.mean([value(c) for c in b]))
    low, high = np.quantile(differences, [TAIL, 1 - TAIL])
    against = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (against + 1) / (resamples + 1))
    return PairedDifference(point, float(low), float(high), p_value)


def value(column: MetricColumn) -> float:
    """Return the metric over all rows."""
    return float(_statistic(column, column.values, np.ones((1, len(column.values))))[0])


def resampled(columns: Sequence[MetricColumn], resamples: int) -> Floats:
    """Return the metric of each column in each resample, (columns, resamples).

    The resamples are the same for all columns.
    """
    rows = len(columns[0].values)
    assert all(len(column.values) == rows for column in columns), "columns have different rows"
    outcomes, counts = np.unique(
        np.concatenate([c.values for c in columns], 1), axis=0, return_counts=True
    )
    ends = np.cumsum([column.values.shape[1] for column in columns])
    parts = np.split(outcomes, ends[:-1], axis=1)
    values = [
        [_statistic(column, part, drawn) for column, part in zip(columns, parts, strict=True)]
        for drawn in _draws(counts, resamples)
    ]
    return np.concatenate(values, axis=1)


def _draws(counts: NDArray[np.int64], resamples: int) -> Iterator[Floats]:
    generator = np.random.Generator(np.random.Philox(_SEED))
    rows = int(counts.sum())
    step = max(1, _AT_ONCE // len(counts))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        yield generator.multinomial(rows, counts / rows, size=size).astype(np.float64)


def _means(values: Floats) -> Floats:
    mean: Floats = values.mean(0)
    return mean


def _statistic(column: MetricColumn, outcomes: Floats, counts: Floats) -> Floats:
    """Return the metric of each resample, (resamples,).

    outcomes: (outcomes, 1 or 2); counts: (resamples, outcomes).
    """
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
    predicted, true = (
        np.equal.outer(outcomes[:, side], labels).astype(np.float64) for side in (0, 1)
    )
    hits, predicted, true = counts @ (predicted * true), counts @ predicted, counts @ true
    if column.metric == "matthews":
        above = hits.sum(1) * rows - (predicted * true).sum(1)
        spreads = (rows**2 - (predicted**2).sum(1)) * (rows**2 - (true**2).sum(1))
        return _quotient(above, np.sqrt(spreads))
    f1 = _quotient(2 * hits, predicted + true)
    if column.metric == "f1":
        return f1 @ (labels == column.positive)
    return _quotient(f1.sum(1), ((predicted + true) > 0).sum(1).astype(np.float64))


def _correlation(x: Floats, y: Floats, counts: Floats) -> Floats:
    rows = counts.sum(1, keepdims=True)
    x = x - (counts * x).sum(1, keepdims=True) / rows
    y = y - (counts * y).sum(1, keepdims=True) / rows
    squares = (counts * x * x).sum(1) * (counts * y * y).sum(1)
    # The spread of a constant is 0 except for rounding.
    return _quotient((counts * x * y).sum(1), np.sqrt(np.where(squares > 1e-18, squares, 0.0)))


def _ranks(x: Floats, counts: Floats) -> Floats:
    """Return the mean rank of each outcome among the rows drawn; ties share theirs."""
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.diff(x[order], prepend=-np.inf))
    drawn = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = np.cumsum(drawn, 1) - (drawn - 1) / 2
    level = np.empty(len(x), np.int64)
    level[order] = np.searchsorted(starts, np.arange(len(x)), side="right") - 1
    return ranks[:, level]


def _quotient(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)
