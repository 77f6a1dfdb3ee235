"""Progress of one artifact of a run, from its own files alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

#: Seconds without a new file after which a stage without a job no longer counts as running.
FRESH = 120.0


@dataclass
class Progress:
    """Progress of an artifact; None for what is not known."""

    #: "shards" or "steps", of which `done` of `total` are there.
    unit: str = ""
    done: int | None = None
    total: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    #: Seconds until done reaches total, at the pace of the last 20 shards or 10 lines of metrics.
    eta: float | None = None
    #: When a file of the artifact was last written, in seconds since the epoch; 0 without one.
    changed: float = 0.0


def artifact_progress(run: Path, key: str) -> Progress:
    """Return the progress of RUN/<key>, finished or not. key: for example tokens/train."""
    root = run / key
    if key == "tokens/tokenizer":
        return Progress(changed=_newest(root))
    if key.startswith(("tokens/", "teacher_cache/", "distilled/")):
        return _sharded(run, root)
    return _trained(root)


def _sharded(run: Path, root: Path) -> Progress:
    times = sorted(path.stat().st_mtime for path in root.glob("shards/*.json"))
    total = _shards_of(root)
    if total is None and root.parent.name == "teacher_cache":
        # Cache shard i belongs to token shard i.
        total = _shards_of(run / "tokens" / "train")
    progress = Progress("shards", len(times), total, changed=_newest(root))
    if len(times) > 1 and total and times[-1] > times[0]:
        recent = times[-20:]
        pace = (len(recent) - 1) / max(recent[-1] - recent[0], 1e-3)
        progress.eta = (total - len(times)) / pace
        progress.tokens_per_second = _tokens(root, len(times)) * pace
    return progress if times or total is not None else Progress(changed=progress.changed)


def _trained(root: Path) -> Progress:
    progress = Progress("steps", changed=_newest(root))
    progress.total = _steps(root)
    losses = [line for line in _metrics(root / "metrics.jsonl") if "loss/loss" in line]
    if losses:
        last = losses[-1]
        progress.done = int(last["step"])
        progress.loss = float(last["loss/loss"])
        progress.tokens_per_second = float(last.get("speed/tokens_per_second", 0.0)) or None
        recent = losses[-10:]
        steps, seconds = last["step"] - recent[0]["step"], last["time"] - recent[0]["time"]
        if steps > 0 and seconds > 0 and progress.total is not None:
            progress.eta = (progress.total - progress.done) * seconds / steps
    elif progress.total is not None:
        progress.done = 0
    return progress


def _steps(root: Path) -> int | None:
    """Return the number of steps in the artifact's own recipe."""
    try:
        recipe = yaml.safe_load((root / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    if not isinstance(recipe, dict):
        return None
    if "finetune" in root.parts[-5:-4]:
        if root.name == "baseline":
            return None
        of_task = [
            task["max_steps"]
            for task in recipe["finetune"]["tasks"]
            if task["name"] == root.parts[-3]
        ]
        return int(next(filter(None, of_task), recipe["finetune"]["max_steps"]))
    return int(recipe["distill"]["max_steps"])


def _shards_of(root: Path) -> int | None:
    """Return the number of shards of a complete artifact."""
    manifest = read_json(root / "manifest.json")
    return len(manifest["shards"]) if manifest else None


def _tokens(root: Path, count: int) -> float:
    """Return the mean tokens of a shard, over a few shards. count: shards that exist."""
    records = [read_json(path) for path in sorted(root.glob("shards/*.json"))[: min(count, 5)]]
    tokens = [record["tokens"] for record in records if record]
    return sum(tokens) / max(1, len(tokens))


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of metrics.jsonl."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue  # a line that is being written, or that a kill cut short


def _newest(root: Path) -> float:
    """Return when a file of the artifact was last written; 0 without one."""
    paths = [
        root,
        root / "shards",
        root / "checkpoints",
        root / "metrics.jsonl",
        root / "tensorboard",
    ]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, None if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def is_fresh(progress: Progress) -> bool:
    """Return True if a file of the artifact was written within the last FRESH seconds."""
    return time.time() - progress.changed < FRESH
