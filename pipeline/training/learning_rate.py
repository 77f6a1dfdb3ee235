"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from pipeline.recipe import Optimisation


def learning_rate(settings: Optimisation, step: int) -> float:
    """Return the learning rate of optimiser step `step`, counted from 0.

    The warm-up is linear; then the schedule goes down to final_fraction.
    """
    warmup = min(settings.warmup_steps, settings.max_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - warmup) / max(1, settings.max_steps - warmup)
    remaining = (
        0.5 * (1 + math.cos(math.pi * progress)) if settings.schedule == "cosine" else 1 - progress
    )
    return settings.learning_rate * (
        settings.final_fraction + (1 - settings.final_fraction) * remaining
    )
