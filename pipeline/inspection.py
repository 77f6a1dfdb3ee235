"""`miniend inspect` and `miniend verify`: show what an artifact holds, and check its bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.artifacts import Artifact, Manifest
from pipeline.console import Progress, say
from pipeline.errors import CorruptArtifact
from pipeline.recipe import Cache

Part = TypeVar("Part")


def inspect_artifact(root: Path) -> None:
    """Print what the manifest and the sidecars say; no shard is read."""
    artifact = Artifact(root)
    manifest = artifact.manifest
    totals = manifest.totals
    say(
        f"{root}: {manifest.kind} {manifest.name}, fingerprint {manifest.fingerprint[:16]}, "
        f"content {manifest.content_hash()[:16]}"
    )
    say(
        f"  {len(manifest.shards)} shards, {totals['rows']} rows, {totals['tokens']} tokens, "
        f"{totals['bytes'] / 1e6:.1f} MB"
    )
    if totals["tokens"]:
        say(f"  {totals['bytes'] / totals['tokens']:.1f} bytes a token")
    for name, column in (manifest.shards[0].columns if manifest.shards else {}).items():
        values = "bytes" if column.ragged else f"{column.dtype} × {column.row_shape}"
        say(f"  column {name}: {values}")
    if manifest.kind == "teacher_cache":
        _say_fidelity(manifest)
    for name, record in manifest.files.items():
        say(f"  file {name}: {record.bytes} bytes")
    for name, source in manifest.inputs.items():
        say(f"  made from {name} {source.fingerprint[:16]}")
    made = manifest.provenance
    say(f"  made {made.get('created')} by miniend {made.get('miniend')}")
    if manifest.shards:
        command = artifact.rebuild_hint(0).partition(": ")[2]
        say(f"  a bad shard, here the first, is rebuilt alone by: {command}")


def verify_artifact(root: Path, *, everything: bool = False) -> None:
    """Check every byte against the manifest; for a teacher cache, also a sample against its labels.

    everything: sample every shard of a cache, not only the first, the middle and the last.
    Prints a line for each bad part, and raises CorruptArtifact when there is one.
    """
    artifact = Artifact(root)
    bad: list[str] = []
    with Progress(f"verify {root.name}", len(artifact.shards), "shard") as progress:
        for shard in artifact.shards:
            bad += _complaint(artifact.verify_shard, shard.index)
            progress.advance()
    for name in artifact.manifest.files:
        bad += _complaint(artifact.verify_file, name)
    replayed: list[int] = []
    if not bad and artifact.manifest.kind == "teacher_cache":
        replayed = _sample(len(artifact.shards), everything)
        bad += _replay(artifact, replayed)
    for complaint in bad:
        say(complaint)
    if bad:
        raise CorruptArtifact(
            f"{root}: {len(bad)} of its parts are not what was written; "
            "each is named above with how to fix it"
        )
    also = f"; targets of {len(replayed)} shards replayed" if replayed else ""
    say(
        f"{root}: {len(artifact.shards)} shards and {len(artifact.manifest.files)} files "
        f"are what was written{also}"
    )


def _say_fidelity(manifest: Manifest) -> None:
    """Print how close the cached targets are to the teacher's, from the notes of each shard."""
    notes = [shard.notes for shard in manifest.shards]
    first: dict[str, Any] = notes[0] if notes else {}
    if "replay_error" in first:
        for name in first["replay_error"]:
            worst = max(note["replay_error"][name]["max"] for note in notes)
            mean = sum(note["replay_error"][name]["mean"] for note in notes) / len(notes)
            say(
                f"  replayed {name}: largest error {worst:.3g}, mean {mean:.3g}, "
                "of the largest value"
            )
        kl = max(note["replay_kl"] for note in notes)
        say(
            f"  replayed logits: KL from the teacher's at most {kl:.3g} nats a position, "
            "mean over a shard's sample"
        )
    if "sampled" in first:
        unique = sum(note["sampled"]["unique_ids"] for note in notes) / len(notes)
        size = sum(note["sampled"]["bytes_per_position"] for note in notes) / len(notes)
        say(f"  sampled: {unique:.1f} unique ids and {size:.1f} bytes a target position")
    if "topk" in first:
        mass = sum(note["topk"]["tail_mass"] for note in notes) / len(notes)
        say(f"  topk: {mass:.3g} of the teacher's probability lies outside the k")


def _complaint(check: Callable[[Part], object], part: Part) -> list[str]:
    """Return the message if `check(part)` finds it corrupt, else nothing."""
    try:
        check(part)
    except CorruptArtifact as error:
        return [str(error)]
    return []


def _sample(shards: int, everything: bool) -> list[int]:
    return list(range(shards)) if everything else sorted({0, shards // 2, shards - 1})


def _replay(cache: Artifact, shards: list[int]) -> list[str]:
    """Return the complaints about the labels of `shards`; the tokens are in the cache's run."""
    import torch

    from pipeline.teacher.cached_targets import (
        CachedTargets,
        check_labels,
        open_tail,
        require_aligned,
    )

    run = cache.root.resolve().parent.parent
    tokens = Artifact(run / "tokens" / "train", "tokens")
    require_aligned(tokens, cache)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = Cache.model_validate(cache.manifest.payload["settings"])
    tail = open_tail(cache, device) if "states" in settings.kinds else None
    pad_token_id = _pad_token_id(cache.root, run, has_tail=tail is not None)

    def check(targets: CachedTargets, shard: int) -> None:
        check_labels(tokens, targets, shard, pad_token_id, tail)

    bad: list[str] = []
    for kind in settings.kinds:
        targets = CachedTargets(cache, kind)
        for shard in shards:
            bad += _complaint(partial(check, targets), shard)
    return bad


def _pad_token_id(cache: Path, run: Path, *, has_tail: bool) -> int:
    """Return the id that pads rows, from the tail's configuration or the run's tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    if has_tail:
        pad_token_id: int = AutoConfig.from_pretrained(cache / "tail").pad_token_id
    else:
        tokenizer = AutoTokenizer.from_pretrained(run / "tokens" / "tokenizer" / "hf")
        pad_token_id = tokenizer.pad_token_id
    return pad_token_id
