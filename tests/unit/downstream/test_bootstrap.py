"""Resampling whole outcomes against resampling rows one by one with scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from pipeline.downstream.bootstrap import MetricColumn, difference, interval, value

_LABELS = np.arange(3)
_BY_HAND: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "f1": lambda p, r: f1_score(r, p, labels=[2], average="macro", zero_division=0.0),
    "macro_f1": lambda p, r: f1_score(r, p, average="macro", zero_division=0.0),
    "matthews": lambda p, r: matthews_corrcoef(r, p),
    "pearson": lambda p, r: pearsonr(p, r).statistic,
    "spearman": lambda p, r: spearmanr(p, r).statistic,
}


def _rows(metric: str, count: int = 120) -> np.ndarray:
    generator = np.random.default_rng(5)
    if metric in ("pearson", "spearman"):
        said = generator.integers(0, 26, count) / 5  # with ties, as texts of numbers have
        return np.stack([said, said + generator.normal(size=count)], 1)
    said = generator.integers(0, 3, count)
    true = np.where(generator.random(count) < 0.6, said, generator.integers(0, 3, count))
    return np.stack([said, true], 1).astype(float)


@pytest.mark.parametrize("metric", _BY_HAND)
def test_a_metric_and_its_interval_are_those_of_row_by_row_resampling(metric: str) -> None:
    rows = _rows(metric)
    column = MetricColumn(metric, rows, 2)
    assert value(column) == pytest.approx(_BY_HAND[metric](rows[:, 0], rows[:, 1]), abs=1e-12)
    generator = np.random.default_rng(1)
    drawn = (rows[generator.integers(len(rows), size=len(rows))] for _ in range(600))
    wanted = np.quantile(
        [_BY_HAND[metric](pick[:, 0], pick[:, 1]) for pick in drawn], [0.025, 0.975]
    )
    width = wanted[1] - wanted[0]
    assert interval([column], 2000) == pytest.approx(tuple(wanted), abs=0.12 * width)
    assert interval([column], 2000) == interval([column], 2000)


def test_a_difference_is_paired() -> None:
    generator = np.random.default_rng(2)
    hard = generator.random(400) < 0.4
    ours = (~hard).astype(float)
    theirs = np.where(
        generator.random(400) < 0.05, 0.0, ours
    )  # wrong wherever we are, and on a few rows more
    found = difference(
        [MetricColumn("accuracy", ours[:, None])], [MetricColumn("accuracy", theirs[:, None])], 1000
    )
    assert found.difference == pytest.approx(ours.mean() - theirs.mean())
    assert 0 < found.low <= found.difference <= found.high
    assert found.p_value < 0.01
    # The intervals of the two overlap by far: without pairing nothing could be said.
    assert interval([MetricColumn("accuracy", ours[:, None])], 1000)[0] < theirs.mean()
    same = difference(
        [MetricColumn("accuracy", ours[:, None])], [MetricColumn("accuracy", ours[:, None])], 1000
    )
    assert same == (0.0, 0.0, 0.0, 1.0)
