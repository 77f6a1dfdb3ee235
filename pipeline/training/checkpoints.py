"""Checkpoints that are complete or absent.

DeepSpeed writes its `latest` file before the last rank is done, so it is neither written nor read
here. A checkpoint counts if it holds `complete.json`. This file is written last and lists every
other file with its size and sha256.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline import ranks
from pipeline.artifacts.atomic import fsync_directory, sha256_file, write_json
from pipeline.artifacts.sealed import unseal, write_sealed
from pipeline.console import say
from pipeline.errors import CorruptArtifact, PipelineError
from pipeline.training.finite import is_finite
from pipeline.training.resharding import universal_copy
from pipeline.training.task import Engine


class NotFinite(PipelineError):
    """Weights or moments that must not be saved."""


class Checkpoint(NamedTuple):
    """A complete checkpoint on disk."""

    directory: Path
    step: int
    world_size: int
    #: The state that the loss carries from step to step.
    state: dict[str, Any]

    @property
    def resharded(self) -> bool:
        """Return whether a different number of ranks saved it."""
        return self.world_size != ranks.world_size()


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, root: Path, identity: str, keep: int, keep_every: int | None = None) -> None:
        """Hold the settings; nothing is read or written yet.

        root: the directory of all checkpoints of a run.
        identity: the fingerprint of the model being trained.
        keep: how many of the newest to keep.
        keep_every: also keep checkpoints whose step is a multiple of this.
        """
        self.root, self.identity, self.keep, self.keep_every = root, identity, keep, keep_every
        self._damaged: set[Path] = set()

    def save(
        self, engine: Engine, step: int, state: Mapping[str, Any], best: int | None = None
    ) -> None:
        """Save the engine after `step` optimiser steps; every rank must call it.

        state: JSON values to save with it. best: a step whose checkpoint is always kept.
        Checkpoints that are no longer needed are removed once the new one is complete. Raises
        NotFinite, and writes nothing, when a weight or a moment of the optimizer is not finite.
        """
        if not is_finite(engine):
            raise NotFinite(
                f"weights or moments are not finite after step {step}, so nothing was saved: lower "
                f"learning_rate or use dtype float32; {self.root} ends before that step (remove it "
                "to start again)"
            )
        directory = self._directory(step)
        if ranks.rank() == 0:
            # Left by a run that was killed while saving this step, or found damaged at the start.
            _remove(directory)
            write_json(directory / "begun.json", {"identity": self.identity})
        ranks.barrier()
        engine.save_checkpoint(str(self.root), tag=directory.name, save_latest=False)
        ranks.barrier()
        if ranks.rank() == 0:
            self._complete(directory, step, state)
            self._prune(step, best)
        ranks.barrier()

    def newest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None; every rank must call it.

        Incomplete or damaged checkpoints are skipped with a message.
        """
        if ranks.rank() == 0:
            # Copies left by a run that was killed while it converted a checkpoint.
            for copy in self.root.glob("universal-step-*"):
                shutil.rmtree(copy, ignore_errors=True)
        # Only rank 0 reads every byte; -1 stands for none.
        step = ranks.largest(self._newest_sound() if ranks.rank() == 0 else -1)
        if step < 0:
            return None
        directory = self._directory(step)
        record = unseal((directory / "complete.json").read_bytes())
        return Checkpoint(directory, step, record["world_size"], record["state"])

    def load(self, engine: Engine, checkpoint: Checkpoint) -> None:
        """Restore `checkpoint`.

        The engine must have been initialised with `checkpoint.resharded` as its `universal`.
        """
        if not checkpoint.resharded:
            engine.load_checkpoint(str(self.root), tag=checkpoint.directory.name)
            return
        with universal_copy(checkpoint.directory) as tag:
            engine.load_checkpoint(str(self.root), tag=tag)

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        """Return every weight after `step` as float32 on the CPU; only one rank calls it.

        Any number of ranks may have saved the checkpoint. Raises CorruptArtifact when it is absent
        or damaged.
        """
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        directory = self._directory(step)
        if problem := self._problem(directory):
            raise CorruptArtifact(
                f"the best checkpoint {directory} cannot be exported, {problem}: train with "
                "export=last, or train again"
            )
        with (
            # Hides the progress bars.
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            return get_fp32_state_dict_from_zero_checkpoint(str(self.root), tag=directory.name)

    def _newest_sound(self) -> int:
        """Return the step of the newest complete checkpoint, -1 when there is none."""
        for directory in reversed(self._begun()):
            problem = self._problem(directory)
            if problem is None:
                return _step(directory)
            self._damaged.add(directory)
            say(f"skipping checkpoint {directory}: {problem}")
        return -1

    def _problem(self, directory: Path) -> str | None:
        """Return why a checkpoint cannot be used, or None."""
        try:
            record = unseal((directory / "complete.json").read_bytes())
            if record["identity"] != self.identity or not isinstance(record["state"], dict):
                return "it belongs to another run"
            for name, entry in record["files"].items():
                path = directory / name
                if (
                    not path.is_file()
                    or path.stat().st_size != entry["bytes"]
                    or sha256_file(path) != entry["sha256"]
                ):
                    return f"{name} is damaged"
        except FileNotFoundError:
            return "it was not completed"
        except (ValueError, KeyError, TypeError, AttributeError):
            return "its complete.json is damaged"
        return None

    def _complete(self, directory: Path, step: int, state: Mapping[str, Any]) -> None:
        """Write `complete.json` after every file of the checkpoint is on disk."""
        self._check_all_ranks_saved(directory)
        files = {
            str(path.relative_to(directory)): {
                "bytes": path.stat().st_size,
                "sha256": _synced_hash(path),
            }
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }
        record = {
            "step": step,
            "identity": self.identity,
            "world_size": ranks.world_size(),
            "state": dict(state),
            "files": files,
        }
        write_sealed(directory / "complete.json", record)
        fsync_directory(self.root)

    def _check_all_ranks_saved(self, directory: Path) -> None:
        optimizer_files = list(directory.glob("*optim_states.pt"))
        if len(optimizer_files) != ranks.world_size():
            raise RuntimeError(
                f"{directory}: {len(optimizer_files)} optimiser files from "
                f"{ranks.world_size()} ranks; is the directory shared?"
            )

    def _prune(self, newest: int, best: int | None) -> None:
        """Remove this run's incomplete and unneeded checkpoints up to step `newest`.

        Later checkpoints, which were skipped at the start, and those of another run stay.
        """
        self._damaged.discard(self._directory(newest))
        candidates = [
            path
            for path in self._begun()
            if _step(path) <= newest and _identity(path) == self.identity
        ]
        sound = [
            path
            for path in candidates
            if (path / "complete.json").exists() and path not in self._damaged
        ]
        needed = {path for path in sound if self.keep_every and _step(path) % self.keep_every == 0}
        needed |= {path for path in sound if _step(path) == best} | set(sound[-self.keep :])
        for path in candidates:
            if path not in needed:
                _remove(path)

    def _begun(self) -> list[Path]:
        """Return the directories of all checkpoints, complete or not, by step."""
        return sorted(
            path for path in self.root.glob("step-*") if path.name.removeprefix("step-").isdecimal()
        )

    def _directory(self, step: int) -> Path:
        return self.root / f"step-{step:08d}"


def _step(directory: Path) -> int:
    return int(directory.name.removeprefix("step-"))


def _identity(directory: Path) -> str | None:
    """Return the identity of the run that began a checkpoint, complete or not; None if unknown."""
    for name in ("begun.json", "complete.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads((directory / name).read_text())["identity"])
    return None


def _remove(directory: Path) -> None:
    # In this order, so that a checkpoint half removed by a kill does not count as complete.
    (directory / "complete.json").unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def _synced_hash(path: Path) -> str:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
    return sha256_file(path)
