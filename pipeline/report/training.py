"""The stages before fine-tuning, from their manifests and metrics.jsonl: what each is made from, what it cost, how its loss fell."""

from __future__ import annotations

import itertools
import statistics
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts.atomic import sha256_file
from pipeline.models.directory import ModelDirectory
from pipeline.report.cost import forward_cost
from pipeline.report.curves import read_lines, work_of
from pipeline.report.disk import identity_of, manifest_of, teacher_name
from pipeline.report.document import Stage
from pipeline.status.progress import read_json

#: Where artifacts lie, in the order in which data flows.
PLACES = ("tokens/*", "distill/*", "teacher_cache/*", "distill_interpolated/*", "distilled/*/*")
#: Whose fingerprints may be named as an input, but which are told of elsewhere.
UNITS = "finetune/*/*/*/*"


#: What this run did not make.
OUTSIDE = "outside"


class Run:
    """The artifacts of a run and who made what from what."""

    def __init__(self, root: Path) -> None:
        self.root = root
        places = [
            path
            for place in PLACES
            for path in sorted(root.glob(place))
            if (path / "fingerprint.json").is_file()
        ]
        self.keys = [path.relative_to(root).as_posix() for path in sorted(places, key=_created)]
        units = [
            path.relative_to(root).as_posix()
            for path in root.glob(UNITS)
            if (path / "fingerprint.json").is_file()
        ]
        self._by_fingerprint = {
            identity_of(root / key).get("fingerprint"): key for key in [*self.keys, *units]
        }
        self._by_model = {
            _hash(root / key / "hf"): key
            for key in self.keys
            if (root / key / "hf" / "config.json").is_file()
        }

    def maker(self, content: str | None) -> str | None:
        """The artifact whose fingerprint or model has that hash; a short hash when none of this run has; None for None."""
        if content is None:
            return None
        return (
            self._by_fingerprint.get(content)
            or self._by_model.get(content)
            or f"{OUTSIDE} ({content[:12]})"
        )

    def stages(self) -> list[Stage]:
        return _in_order([self._stage(key) for key in self.keys])

    def _stage(self, key: str) -> Stage:
        root = self.root / key
        manifest, identity = manifest_of(root), identity_of(root)
        payload: dict[str, Any] = identity.get("payload") or {}
        provenance: dict[str, Any] = (manifest or {}).get("provenance") or {}
        stage = Stage(
            artifact=key,
            stage=key.split("/")[0],
            state="complete" if manifest else "begun",
            inputs=self._inputs(root, payload),
            objective=None,
            initial=None,
            steps=None,
            total_steps=None,
            rows=None,
            tokens=None,
            seconds=None,
            processes=int(provenance.get("world_size") or provenance.get("processes") or 1),
            flops=None,
            bytes=None,
            train_loss=None,
            validation_loss=None,
            recipe=sha256_file(root / "recipe.yaml") if (root / "recipe.yaml").is_file() else None,
            fingerprint=identity.get("fingerprint"),
        )
        if "batch_size" in (payload.get("settings") or {}) and key.startswith("distill"):
            self._trained(stage, root, payload)
        else:
            self._sharded(stage, root, payload, manifest, provenance)
        return stage

    def _inputs(self, root: Path, payload: dict[str, Any]) -> dict[str, str]:
        found = {
            role: self.maker(payload.get(role))
            for role in ("teacher", "cache", "tokens", "tokenizer")
        }
        preset = ((payload.get("settings") or {}).get("objective") or {}).get("preset")
        if preset == "lm" and payload["student"]["init"] == "random":
            found["teacher"] = None  # named by the recipe, asked for nothing
        elif (found["teacher"] or "").startswith(OUTSIDE) and (name := teacher_name(root)):
            found["teacher"] = f"{name}, {found['teacher']}"
        return {role: name for role, name in found.items() if name is not None}

    def _trained(self, stage: Stage, root: Path, payload: dict[str, Any]) -> None:
        settings, lines = payload["settings"], read_lines(root / "metrics.jsonl")
        losses = [line for line in lines if "loss/loss" in line]
        stage["objective"] = _objective(settings)
        stage["initial"] = (payload.get("student") or {}).get("init")
        steps = int(losses[-1]["step"]) if losses else 0
        rows = steps * settings["batch_size"]
        stage["total_steps"], stage["steps"], stage["rows"] = settings["max_steps"], steps, rows
        if losses:
            stage["train_loss"] = losses[-1].get("loss/lm", losses[-1]["loss/loss"])
        checked = [line["validation/lm_loss"] for line in lines if "validation/lm_loss" in line]
        summary = read_json(root / "summary.json")
        stage["validation_loss"] = (
            summary["validation"]["lm_loss"] if summary else checked[-1] if checked else None
        )
        lengths = self._lengths(payload.get("tokens"))
        if lengths is None:
            return
        stage["tokens"] = rows * sum(lengths)
        work = work_of(lines, sum(lengths) * settings["batch_size"])
        stage["seconds"], stage["flops"] = (
            work.seconds,
            work.flops and work.flops * stage["processes"],
        )

    def _sharded(
        self,
        stage: Stage,
        root: Path,
        payload: dict[str, Any],
        manifest: dict[str, Any] | None,
        provenance: dict[str, Any],
    ) -> None:
        sidecars = sorted(root.glob("shards/*.json"))
        records = (
            manifest["shards"]
            if manifest
            else [record for path in sidecars if (record := read_json(path))]
        )
        if records:
            stage["rows"] = sum(record["rows"] for record in records)
            stage["tokens"] = sum(record["tokens"] for record in records)
        stage["bytes"] = (
            manifest["totals"]["bytes"]
            if manifest
            else sum(record["bytes"] for record in records) or None
        )
        rate = provenance.get("tokens_per_second")
        stage["seconds"] = (
            stage["tokens"] / rate if stage["tokens"] and rate else provenance.get("seconds")
        )
        if stage["seconds"] is None and stage["stage"] == "teacher_cache":
            stage["seconds"] = _seconds_between(sidecars, provenance.get("created"))
        lengths = self._lengths(payload.get("tokens"))
        teacher = self._by_model.get(payload.get("teacher"))
        if lengths and teacher and stage["rows"]:
            logits = set(payload["settings"]["kinds"]) != {"states"}
            cost = forward_cost(self.root / teacher / "hf", *lengths, logits=logits)
            stage["flops"] = cost and cost * stage["rows"]

    def _lengths(self, tokens: str | None) -> tuple[int, int] | None:
        """Source and target tokens of a row of the token artifact of that fingerprint."""
        key = self._by_fingerprint.get(tokens)
        records = (
            [read_json(path) for path in sorted((self.root / key).glob("shards/*.json"))[:1]]
            if key
            else []
        )
        if not records or records[0] is None:
            return None
        columns = records[0]["columns"]
        return columns["input_ids"]["row_shape"][0], columns["labels"]["row_shape"][0]


def _objective(settings: dict[str, Any]) -> str:
    objective = settings.get("objective") or {}
    changed = [f"{part} × {weight}" for part, weight in (objective.get("weights") or {}).items()]
    taught = (
        [] if objective.get("preset") == "lm" else [f"from {settings.get('targets', 'states')}"]
    )
    return ", ".join([str(objective.get("preset")), *changed, *taught])


def _seconds_between(files: list[Path], finished: str | None) -> float | None:
    """Time that writing the shards took, from when each was; a pause of more than five usual gaps counts as a usual one.

    finished: when the artifact was, as its manifest says. None when the files are younger: a copy has times of its own.
    """
    times = sorted(file.stat().st_mtime for file in files)
    if (
        finished is not None
        and times
        and times[-1] > datetime.fromisoformat(finished.replace("Z", "+00:00")).timestamp() + 60
    ):
        return None
    gaps = [after - before for before, after in itertools.pairwise(times)]
    if not gaps:
        return None
    usual = statistics.median(gaps)
    return sum(gap if gap <= 5 * usual else usual for gap in gaps) + usual


def _in_order(stages: list[Stage]) -> list[Stage]:
    """Each after what it is made from."""
    left, done = list(stages), list[Stage]()
    while left:
        names = {stage["artifact"] for stage in left}
        ready = [
            stage
            for stage in left
            if not names & (set(stage["inputs"].values()) - {stage["artifact"]})
        ]
        done += ready or left
        left = [stage for stage in left if stage not in done]
    return done


def _created(root: Path) -> str:
    """When it was finished; what is not comes last."""
    return str(((manifest_of(root) or {}).get("provenance") or {}).get("created") or "unfinished")


def _hash(directory: Path) -> str | None:
    try:
        return ModelDirectory(str(directory), directory).content
    except (OSError, ValueError):
        return None
