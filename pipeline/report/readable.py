"""Numbers and names in the form that people read."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "–"

_METRICS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "macro_f1": "macro F1",
    "matthews": "MCC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}


def metric_name(metric: str) -> str:
    """Return a metric's usual name: `mismatched/accuracy` → "accuracy (mismatched)"."""
    part, _, name = metric.rpartition("/")
    return _METRICS.get(name, name) + (f" ({part})" if part else "")


def digits_of(metric: str) -> int:
    """Return how many decimals to show: ROUGE is scaled by 100."""
    return 2 if metric.rpartition("/")[2].startswith("rouge") else 3


def number(value: float | None, digits: int = 0) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def interval(ends: Sequence[float] | None, digits: int) -> str:
    return "" if ends is None else f"[{ends[0]:,.{digits}f}, {ends[1]:,.{digits}f}]"


def percent(share: float | None, digits: int = 0) -> str:
    return NOTHING if share is None else f"{100 * share:.{digits}f}%"


def times(factor: float | None) -> str:
    return NOTHING if factor is None else f"{factor:.2f}×"


def scaled(value: float | None, unit: str = "") -> str:
    """Return three digits and a letter for the power of a thousand: 8.88 M."""
    if value is None:
        return NOTHING
    for power, letter in zip((18, 15, 12, 9, 6, 3), "EPTGMk", strict=True):
        if abs(value) >= 10.0**power:
            return f"{_three(value / 10.0**power)} {letter}{unit}"
    return f"{_three(value)} {unit}".strip()


def parameters(value: float | None) -> str:
    """Return a number of weights: 8.88 M, 2.85 B (the field says billions, not giga)."""
    return scaled(value).replace(" G", " B")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if hours < 1:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(hours)} h {int(minutes % 60)} min"


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def short(name: str, limit: int = 22) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _three(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"
