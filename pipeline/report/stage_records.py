"""The stages before fine-tuning, from their manifests and logs: inputs, cost and last losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.artifacts.atomic import sha256_file
from pipeline.report.cost import forward_cost, training_cost, writing_time
from pipeline.report.document import StageRecord
from pipeline.report.run_files import identity_of, manifest_of, read_log, teacher_name
from pipeline.report.run_index import OUTSIDE, RunIndex
from pipeline.status.progress import read_json

#: A part of a manifest, as JSON.
Json = dict[str, Any]


def stage_records(run: Path) -> list[StageRecord]:
    """Return one record an artifact of `run`, each after its inputs."""
    index = RunIndex(run)
    return _in_order([_record(index, key) for key in index.keys])


def _record(index: RunIndex, key: str) -> StageRecord:
    root = index.root / key
    manifest, identity = manifest_of(root), identity_of(root)
    payload: Json = identity.get("payload") or {}
    provenance: Json = (manifest or {}).get("provenance") or {}
    recipe = root / "recipe.yaml"
    record = StageRecord(
        artifact=key,
        stage=key.split("/")[0],
        state="complete" if manifest else "begun",
        inputs=_inputs(index, root, payload),
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
        recipe=sha256_file(recipe) if recipe.is_file() else None,
        fingerprint=identity.get("fingerprint"),
    )
    if "batch_size" in (payload.get("settings") or {}) and key.startswith("distill"):
        _add_training(record, index, root, payload)
    else:
        _add_shards(record, root, manifest, provenance)
        _add_teacher_pass(record, index, payload)
    return record


def _inputs(index: RunIndex, root: Path, payload: Json) -> dict[str, str]:
    makers = {
        role: index.maker(payload.get(role)) for role in ("teacher", "cache", "tokens", "tokenizer")
    }
    preset = ((payload.get("settings") or {}).get("objective") or {}).get("preset")
    if preset == "lm" and payload["student"]["init"] == "random":
        makers["teacher"] = None  # named by the recipe, but not used
    elif (makers["teacher"] or "").startswith(OUTSIDE) and (name := teacher_name(root)):
        makers["teacher"] = f"{name}, {makers['teacher']}"
    return {role: name for role, name in makers.items() if name is not None}


def _add_training(record: StageRecord, index: RunIndex, root: Path, payload: Json) -> None:
    settings, log = payload["settings"], read_log(root)
    record["objective"] = _objective(settings)
    record["initial"] = (payload.get("student") or {}).get("init")
    losses = [entry for entry in log if "loss/loss" in entry]
    steps = int(losses[-1]["step"]) if losses else 0
    rows = steps * settings["batch_size"]
    record["total_steps"], record["steps"], record["rows"] = settings["max_steps"], steps, rows
    if losses:
        record["train_loss"] = losses[-1].get("loss/lm", losses[-1]["loss/loss"])
    validated = [entry["validation/lm_loss"] for entry in log if "validation/lm_loss" in entry]
    summary = read_json(root / "summary.json")
    if summary:
        record["validation_loss"] = summary["validation"]["lm_loss"]
    elif validated:
        record["validation_loss"] = validated[-1]
    lengths = index.row_lengths(payload.get("tokens"))
    if lengths is None:
        return
    record["tokens"] = rows * sum(lengths)
    cost = training_cost(log, sum(lengths) * settings["batch_size"])
    record["seconds"] = cost.seconds
    record["flops"] = cost.flops and cost.flops * record["processes"]


def _add_shards(record: StageRecord, root: Path, manifest: Json | None, provenance: Json) -> None:
    sidecars = sorted(root.glob("shards/*.json"))
    shards = manifest["shards"] if manifest else [s for path in sidecars if (s := read_json(path))]
    if shards:
        record["rows"] = sum(shard["rows"] for shard in shards)
        record["tokens"] = sum(shard["tokens"] for shard in shards)
    if manifest:
        record["bytes"] = manifest["totals"]["bytes"]
    else:
        record["bytes"] = sum(shard["bytes"] for shard in shards) or None
    rate = provenance.get("tokens_per_second")
    if record["tokens"] and rate:
        record["seconds"] = record["tokens"] / rate
    else:
        record["seconds"] = provenance.get("seconds")
    if record["seconds"] is None and record["stage"] == "teacher_cache":
        record["seconds"] = writing_time(sidecars, provenance.get("created"))


def _add_teacher_pass(record: StageRecord, index: RunIndex, payload: Json) -> None:
    """Add the operations of a cache: one forward pass of the teacher a row."""
    lengths = index.row_lengths(payload.get("tokens"))
    teacher = index.model_directory(payload.get("teacher"))
    if lengths and teacher and record["rows"]:
        logits = set(payload["settings"]["kinds"]) != {"states"}
        cost = forward_cost(teacher, *lengths, logits=logits)
        record["flops"] = cost and cost * record["rows"]


def _objective(settings: Json) -> str:
    objective = settings.get("objective") or {}
    preset = objective.get("preset")
    changed = [f"{part} × {weight}" for part, weight in (objective.get("weights") or {}).items()]
    targets = [] if preset == "lm" else [f"from {settings.get('targets', 'states')}"]
    return ", ".join([str(preset), *changed, *targets])


def _in_order(records: list[StageRecord]) -> list[StageRecord]:
    """Put each record after those of its inputs."""
    left, ordered = list(records), list[StageRecord]()
    while left:
        names = {record["artifact"] for record in left}
        ready = [
            record
            for record in left
            if not names & (set(record["inputs"].values()) - {record["artifact"]})
        ]
        ordered += ready or left
        left = [record for record in left if record not in ordered]
    return ordered
