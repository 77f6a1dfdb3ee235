"""The targets that an objective needs, and the kinds of cached target that can serve it.

No heavy imports.
"""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.objectives import presets
from pipeline.objectives.weight_schedules import Scheduled
from pipeline.recipe import Cache, Distill, Objective, Schedule, ShareSchedule


def part_weights(objective: Objective) -> dict[str, Scheduled]:
    """Return the weight of each part of the loss; raises ConfigError like `presets.resolve`."""
    weights = {part: as_scheduled(weight) for part, weight in objective.weights.items()}
    return presets.resolve(objective.preset, weights)


def as_scheduled(value: float | Schedule | ShareSchedule) -> Scheduled:
    """Convert a constant or schedule of the recipe for `objectives.weight_schedules`."""
    return (
        float(value) if isinstance(value, (int, float)) else (value.start, value.end, value.steps)
    )


def needs_cache(settings: Distill) -> bool:
    """Return whether the objective compares with a teacher whose targets are cached."""
    return presets.needs_teacher(part_weights(settings.objective)) and settings.targets != "online"


def check_targets(settings: Distill, cache: Cache) -> None:
    """Raise ConfigError when the kind of target that `settings` names cannot serve its objective.

    Sampled targets are an unbiased estimate only of the forward KL at the temperature of the draws
    (arXiv 2503.16870). Top-k targets hold the k largest probabilities at temperature 1 and the mass
    of the rest.
    """
    kind, objective = settings.targets, settings.objective
    if settings.original is not None and not needs_cache(settings):
        raise ConfigError(
            "a share of the original teacher (interpolated.original_weight) needs an objective "
            "that compares with a teacher, and cached targets of both: change distill.objective "
            "and distill.targets, or leave it out"
        )
    if kind in ("states", "online"):
        return
    state_parts = [part for part in part_weights(objective) if part not in ("lm", "logits")]
    if state_parts:
        raise ConfigError(
            f"distill.targets {kind} cannot serve the objective's {', '.join(state_parts)}: they "
            "need the teacher's states; set distill.targets=states (and cache them), or "
            "distill.objective.preset=logits"
        )
    if objective.taid is not None:
        raise ConfigError(
            f"distill.targets {kind} cannot serve taid, which needs full logits: "
            "set distill.targets=states"
        )
    if kind == "sampled" and objective.divergence != "forward_kl":
        raise ConfigError(
            f"distill.targets sampled cannot serve {objective.divergence}: sampling is unbiased "
            "only for forward_kl; use topk or states"
        )
    temperature = cache.sampled.temperature if kind == "sampled" else 1.0
    if objective.temperature != temperature:
        raise ConfigError(
            f"distill.objective.temperature is {objective.temperature:g}, but the {kind} targets "
            f"hold the teacher's distribution at {temperature:g}: set it to {temperature:g}"
            + (" or cache again" if kind == "sampled" else "")
        )
