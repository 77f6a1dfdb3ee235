"""Checkpoints that are complete or absent.

DeepSpeed writes its `latest` file before the last rank is done, so it is neither written nor read here. A checkpoint
counts when `complete.json` stands in it: the last file written, naming every other with its size and sha256.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.artifacts.atomic import fsync_directory, sha256_file
from pipeline.artifacts.sealed import unseal, write_sealed
from pipeline.console import say
from pipeline.training import distributed
from pipeline.training.resharding import universal_copy


class Checkpoint(NamedTuple):
    directory: Path
    step: int
    world_size: int
    #: What the loss carries from step to step.
    state: dict[str, Any]

    @property
    def resharded(self) -> bool:
        """Whether another number of ranks saved it."""
        return self.world_size != distributed.world_size()


class Checkpoints:
    def __init__(self, root: Path, identity: str, keep: int) -> None:
        """root: the directory of all checkpoints of a run; identity: fingerprint of what is being trained."""
        self.root, self.identity, self.keep = root, identity, keep

    def save(self, engine: Any, step: int, state: Mapping[str, Any]) -> None:
        """Save the engine after `step` optimiser steps, and `state` (JSON values) beside it; every rank must call it."""
        tag = f"step-{step:08d}"
        directory = self.root / tag
        if distributed.rank() == 0:
            # Left by a run that was killed while saving this very step.
            shutil.rmtree(directory, ignore_errors=True)
        distributed.barrier()
        engine.save_checkpoint(str(self.root), tag=tag, save_latest=False)
        distributed.barrier()
        if distributed.rank() == 0:
            self._check_all_ranks_saved(directory)
            files = {
                str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": _synced_hash(path)}
                for path in sorted(directory.rglob("*"))
                if path.is_file()
            }
            record = {
                "step": step,
                "identity": self.identity,
                "world_size": distributed.world_size(),
                "state": dict(state),
                "files": files,
            }
            write_sealed(directory / "complete.json", record)
            fsync_directory(self.root)
            self._prune()
        distributed.barrier()

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint, None when there is none; every rank must ask.

        An incomplete or damaged one is passed over with a word.
        """
        if distributed.rank() == 0:
            for left in self.root.glob("universal-step-*"):  # of a run that was killed while it converted
                shutil.rmtree(left, ignore_errors=True)
        # Rank 0 alone reads every byte; -1 stands for none.
        step = distributed.largest(self._newest_sound() if distributed.rank() == 0 else -1)
        if step < 0:
            return None
        directory = self.root / f"step-{step:08d}"
        record = unseal((directory / "complete.json").read_bytes())
        return Checkpoint(directory, step, record["world_size"], record["state"])

    def load(self, engine: Any, checkpoint: Checkpoint) -> None:
        """Restore `checkpoint`; the engine was initialised with `checkpoint.resharded` as its `universal`."""
        if not checkpoint.resharded:
            engine.load_checkpoint(str(self.root), tag=checkpoint.directory.name)
            return
        with universal_copy(checkpoint.directory) as tag:
            engine.load_checkpoint(str(self.root), tag=tag)

    def _newest_sound(self) -> int:
        for directory in sorted(self.root.glob("step-*"), reverse=True):
            problem = self._problem(directory)
            if problem is None:
                return int(directory.name.removeprefix("step-"))
            say(f"passing over checkpoint {directory}: {problem}")
        return -1

    def _problem(self, directory: Path) -> str | None:
        try:
            record = unseal((directory / "complete.json").read_bytes())
            if record["identity"] != self.identity or not isinstance(record["state"], dict):
                return "it belongs to another run"
            for name, entry in record["files"].items():
                path = directory / name
                if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
                    return f"{name} is damaged"
        except FileNotFoundError:
            return "it was not completed"
        except (ValueError, KeyError, TypeError, AttributeError):
            return "its complete.json is damaged"
        return None

    def _check_all_ranks_saved(self, directory: Path) -> None:
        optimizer_files = list(directory.glob("*optim_states.pt"))
        if len(optimizer_files) != distributed.world_size():
            raise RuntimeError(
                f"{directory}: {len(optimizer_files)} optimiser files from {distributed.world_size()} ranks; is the directory shared?"
            )

    def _prune(self) -> None:
        complete = sorted(path.parent for path in self.root.glob("step-*/complete.json"))
        for directory in complete[: -self.keep]:
            (directory / "complete.json").unlink()
            shutil.rmtree(directory, ignore_errors=True)


def _synced_hash(path: Path) -> str:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
    return sha256_file(path)
