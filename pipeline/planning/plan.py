"""`miniend plan`: what a recipe will make and cost, before anything runs. Nothing is written, and no weight is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.console import quiet_libraries, say
from pipeline.errors import ConfigError
from pipeline.planning.gpus import device
from pipeline.recipe import load_recipe

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15}


def show_plan(
    path: str,
    overrides: Sequence[str],
    *,
    gpus: int,
    gpu: str,
    mfu: float,
    tokens: str | None,
    room: str | None,
    as_json: bool,
) -> None:
    """Print the plan of a recipe.

    tokens, room: numbers such as 10B and 50T; room is what there is for caches, else what the disk of the run has free.
    """
    quiet_libraries()
    found = make_plan(path, overrides, gpus=gpus, gpu=gpu, mfu=mfu, tokens=tokens, room=room)
    if as_json:
        say(json.dumps(found, indent=2))
        return
    from pipeline.planning.show import lines

    for line in lines(found):
        say(line)


def make_plan(
    path: str,
    overrides: Sequence[str] = (),
    *,
    gpus: int = 8,
    gpu: str = "h100",
    mfu: float = 0.4,
    tokens: str | None = None,
    room: str | None = None,
) -> dict[str, Any]:
    """Return the plan as numbers and strings; bytes, operations and hours as they are. Raises ConfigError."""
    if gpus < 1 or not 0 < mfu <= 1:
        raise ConfigError("--gpus is at least 1, and --mfu above 0 and at most 1")
    recipe = load_recipe(path, overrides)
    from pipeline.planning.advice import advise, follows, misfits
    from pipeline.planning.chain import plan_chain
    from pipeline.planning.disk import rows_of
    from pipeline.planning.estimate import Assumed, LinkEstimate, capacity_ratio, estimates, readers

    rows = rows_of(recipe, _number(tokens, "--tokens") if tokens is not None else None)
    free = (
        _number(room, "--disk")
        if room is not None
        else float(shutil.disk_usage(_existing(recipe.root)).free)
    )
    assumed = Assumed(gpu, device(gpu), gpus, mfu, free)
    chain = plan_chain(recipe)
    every = estimates(recipe, chain, rows, assumed)

    def described(estimate: LinkEstimate) -> dict[str, Any]:
        link, advice = estimate.link, advise(estimate)
        memory = estimate.memory(advice.kind)
        lean = memory
        if not recipe.distill.activation_checkpointing:
            lean = estimate.memory(advice.kind, checkpointing=True)
        cached = advice.kind not in ("none", "online")
        caching = estimate.caching_memory(advice.kind) if cached else None
        return {
            "key": link.key,
            "shares_cache_with": readers(every, estimate)[0].link.key
            if estimate.compares
            else None,
            "teacher": link.teacher.name if link.teacher is not None else None,
            "student": _model(link.student),
            "capacity_ratio": capacity_ratio(link.teacher, link.student)
            if link.teacher is not None
            else None,
            "steps": link.steps,
            "rows_seen": estimate.samples,
            "targets": {
                kind.name: {
                    "row_bytes": kind.row,
                    "shard_bytes": kind.shards,
                    "tail_bytes": kind.tail,
                    "bytes": kind.total,
                    "bytes_per_second": kind.bandwidth,
                }
                for kind in estimate.kinds.values()
            },
            "recommended": advice.kind,
            "why": advice.why,
            "follows": follows(every, estimate, advice.kind),
            "operations_per_step": estimate.step_operations(advice.kind)
            * recipe.distill.batch_size,
            "training_gpu_hours": estimate.training_hours(advice.kind),
            "online_gpu_hours": estimate.training_hours("online"),
            "caching_gpu_hours": estimate.caching_hours(advice.kind) if cached else 0.0,
            "caching_bytes": caching,
            "micro_batch_size": estimate.micro_batch,
            "memory": memory._asdict() | {"peak": memory.peak},
            "memory_with_checkpointing": lean._asdict() | {"peak": lean.peak},
            "does_not_fit": misfits(estimate, advice.kind, memory.peak, caching),
        }

    return {
        "recipe": path,
        "assumed": {
            "gpu": gpu,
            "gpus": gpus,
            "mfu": mfu,
            "disk": free,
            "peak_flops": assumed.device.peak_flops,
            "device_memory": assumed.device.memory,
        },
        "teacher": _model(chain.direct.teacher) if chain.direct.teacher is not None else None,
        "teacher_source": chain.source,
        "rows": {
            "rows": rows.rows,
            "input_length": rows.input_length,
            "target_length": rows.target_length,
            "raw_length": rows.raw_length,
            "shards": rows.shards,
            "source": rows.source,
        },
        "objective": recipe.distill.objective.preset,
        "deepspeed": recipe.distill.deepspeed,
        "batch_size": recipe.distill.batch_size,
        "links": [described(estimate) for estimate in every],
    }


def _model(model: Any) -> dict[str, Any]:
    from dataclasses import asdict

    parameters = {"parameters": model.size.total, "embedding_parameters": model.size.embeddings}
    return (
        {"name": model.name, "model_type": model.config.model_type}
        | asdict(model.shape)
        | parameters
    )


def _number(text: str, flag: str) -> float:
    body, unit = (
        text.strip().upper().removesuffix("B") if flag == "--disk" else text.strip().upper(),
        "",
    )
    if body and body[-1] in _UNITS:
        body, unit = body[:-1], body[-1]
    try:
        value = float(body) * _UNITS[unit]
    except ValueError:
        raise ConfigError(f"{flag} {text}: write a number such as 300M, 10B or 1T") from None
    if not 0 < value < float("inf"):
        raise ConfigError(f"{flag} {text}: give more than nothing")
    return value


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
