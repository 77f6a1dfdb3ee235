"""A divergence as a value: its kind, its alpha and its temperature. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl"]

#: The alpha of a kind when none is given: the symmetric Jensen-Shannon divergence, DistiLLM's 0.1.
DEFAULT_ALPHA: dict[str, float] = {"jensen_shannon": 0.5, "skew_kl": 0.1, "skew_reverse_kl": 0.1}


@dataclass(frozen=True, init=False)
class Divergence:
    """A divergence between a teacher's p and a student's q, both at one temperature.

    kind, alpha: see `formulas.value`.
    """

    kind: Kind
    alpha: float
    temperature: float

    def __init__(
        self, kind: Kind = "forward_kl", alpha: float | None = None, temperature: float = 1.0
    ) -> None:
        """Take the kind's own alpha when `alpha` is None.

        Raises ValueError for an unknown kind, and for an alpha or a temperature out of range.
        """
        check_temperature(temperature)
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "alpha", _checked_alpha(kind, alpha))
        object.__setattr__(self, "temperature", float(temperature))


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless the temperature is a finite number above 0."""
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0, not {temperature}")


def check_share(share: float) -> None:
    """Raise ValueError unless the teacher's share of TAID's target lies in 0 to 1."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"the teacher's share of the target must lie in 0 to 1, not {share}")


def _checked_alpha(kind: str, alpha: float | None) -> float:
    if kind not in get_args(Kind):
        raise ValueError(f"unknown divergence {kind!r}; known: {', '.join(get_args(Kind))}")
    if alpha is None:
        return DEFAULT_ALPHA.get(kind, 0.0)
    if kind == "jensen_shannon" and not 0.0 < alpha < 1.0:
        raise ValueError(
            f"jensen_shannon needs 0 < alpha < 1, not {alpha}: it vanishes at both ends"
        )
    if kind.startswith("skew") and not 0.0 <= alpha < 1.0:
        raise ValueError(
            f"{kind} needs 0 <= alpha < 1, not {alpha}: at 1 it is zero for any student"
        )
    return alpha


#: KL(teacher || student) at temperature 1.
FORWARD_KL = Divergence()
