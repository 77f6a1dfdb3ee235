"""Caching of a teacher: the recipe's targets for each token shard, and once the tail.

The tail replays the cached states.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import Output, ShardRecord, lock
from pipeline.artifacts.shard import Rows
from pipeline.console import Progress, say
from pipeline.errors import ConfigError, CorruptArtifact
from pipeline.teacher import sparse, states
from pipeline.teacher.background_writing import Writing
from pipeline.teacher.cache_size import cache_bytes, require_disk
from pipeline.teacher.capture import Captured
from pipeline.teacher.fidelity import replay_fidelity
from pipeline.teacher.job import CacheJob
from pipeline.teacher.loaded import TailState, Teacher, load_teacher
from pipeline.teacher.model_inputs import model_inputs
from pipeline.teacher.tail import TAIL_FILES, Tail, write_tail
from pipeline.teacher.vocabulary import check_vocabulary

#: The largest difference between a replay and the teacher, relative to the teacher's largest value.
#: Rounding differs where a GPU chooses other kernels; more than this is a fault.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2}


def cache_teacher(
    job: CacheJob, rank: int = 0, world: int = 1, shards: str | None = None
) -> Output:
    """Complete job.output; this process writes the missing shards among every `world`-th one.

    shards: restricts the work of all processes to these, as `chosen_shards` reads them.
    Raises ConfigError when teacher and tokens do not fit, and ArtifactError when the disk is too
    small for the whole cache. Raises CorruptArtifact when the replay of a shard's sample differs
    from the teacher.
    """
    output = job.output
    if output.complete():
        return output
    count = len(job.tokens.shards)
    job.tokens.require_sizes()
    _check(job)
    output.begin()
    missing = output.missing(count)
    _require_disk(job, missing)
    # By index, not by position in `missing`: a process that starts late finds less missing than one
    # that started early.
    share = chosen_shards(shards, count)[rank::world]
    mine = sorted(set(share) & set(missing))
    files = TAIL_FILES if "states" in job.settings.kinds else ()
    lacks_tail = not _present(output.root, files)
    writes_tail = 0 in share and lacks_tail
    if mine or writes_tail or (job.together and (missing or lacks_tail)):
        teacher = load_teacher(job.teacher, job.dtype, job.cuts, job.deepspeed)
        worker = _Worker(job, teacher)
        if writes_tail:
            with lock.in_turn(output.root):  # with the same command started twice
                if not _present(output.root, files):
                    write_tail(*worker.tail_state, output.root / "tail")
        worker.run(mine, quiet=rank != 0)
        teacher.close()
    if _present(output.root, files) and output.finish(
        count, files, provenance={"world_size": world}
    ):
        say(f"teacher_cache: {count} shards complete in {output.root}")
    return output


def chosen_shards(text: str | None, count: int) -> list[int]:
    """Return the indices below `count` that `text` names, or all if it is None.

    text: `3,7-9`, or `1::4` for every fourth from 1 on; indices beyond the last are ignored. Raises
    ConfigError for anything else.
    """
    if text is None:
        return list(range(count))
    chosen: set[int] = set()
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)|::([1-9]\d*))?", item)
        if match is None:
            raise ConfigError(f"--shards {text}: write 3,7-9, or 1::4 for every fourth from 1 on")
        first, last, step = match.groups()
        stop = int(last) + 1 if last else count if step else int(first) + 1
        chosen.update(range(int(first), min(stop, count), int(step or 1)))
    return sorted(chosen)


def _check(job: CacheJob) -> None:
    """Raise ConfigError early, before anything is written, for settings that cannot work."""
    teacher, settings = job.teacher.architecture, job.settings
    teacher.check_dtype(job.dtype, "teacher.dtype")
    check_vocabulary(job.teacher, job.tokenizer)
    teacher.check_length(job.input_length, "tokens.input_length")
    _ = job.cuts  # refuses blocks that are not there
    if "topk" in settings.kinds and settings.topk.k >= teacher.vocab_size:
        raise ConfigError(
            f"cache.topk.k {settings.topk.k}: the teacher's vocabulary has "
            f"{teacher.vocab_size} tokens"
        )


def _require_disk(job: CacheJob, missing: Sequence[int]) -> None:
    """Raise ArtifactError unless the missing shards fit on the disk."""
    tokens, teacher = [job.tokens.shards[index] for index in missing], job.teacher.architecture
    width, vocab_size = teacher.shape.d_model, teacher.vocab_size
    need = cache_bytes(job.settings, tokens, width, vocab_size, job.dtype)
    require_disk(job.output.root, need)


class _Worker:
    """A loaded teacher that turns token shards into cache shards."""

    def __init__(self, job: CacheJob, teacher: Teacher) -> None:
        self.job, self.teacher, self.cache = job, teacher, job.settings
        architecture = job.teacher.architecture
        self.pad_token_id, self.vocab_size = architecture.pad_token_id, architecture.vocab_size
        self.has_states = "states" in self.cache.kinds
        #: Whether a pass runs to its end, not just to the decoder's cut.
        self.to_end = bool({"sampled", "topk"} & set(self.cache.kinds))
        self.tail: Tail | None = None
        if self.has_states:
            self.tail_state: TailState = teacher.tail_state()
            self.tail = Tail(teacher.family.build_tail(*self.tail_state))

    def run(self, shards: list[int], *, quiet: bool) -> None:
        """Write these shards."""
        records = [self.job.tokens.shards[index] for index in shards]
        rows = sum(record.rows for record in records)
        with Writing() as writing, Progress("cache_teacher", rows, "row", quiet=quiet) as progress:
            # Where ranks make their passes together, those that finish early take part in the
            # remaining passes of the others.
            batches = sum(math.ceil(record.rows / self.cache.batch_size) for record in records)
            passes = batches + self.has_states * len(records)
            # Asked before the first pass: all ranks answer together, and later some are busy.
            others_need = self.teacher.most_passes(passes) - passes
            for record in records:
                self._shard(record, writing, progress)
            for _ in range(others_need):
                self.teacher.run(self._batch(0, 0, 1), self.to_end)

    def _batch(self, shard: int, start: int, stop: int) -> dict[str, torch.Tensor]:
        rows = self.job.tokens.rows(shard, slice(start, stop), ("input_ids", "labels"))
        inputs = model_inputs(rows, self.pad_token_id)
        return {name: tensor.to(self.teacher.device) for name, tensor in inputs.items()}

    def _shard(self, record: ShardRecord, writing: Writing, progress: Progress) -> None:
        index, size = record.index, self.cache.batch_size
        writing.begin(self.job.output, index, record.rows)
        notes: dict[str, Any] = {"token_shard_sha256": record.sha256}
        for start in range(0, record.rows, size):
            stop = min(start + size, record.rows)
            batch = self._batch(index, start, stop)
            captured = self.teacher.run(batch, self.to_end)
            columns = self._columns(captured, batch["labels"], index, start)
            if start == 0:
                notes |= self._fidelity(index, batch, columns)
            # Only what is stored leaves the device.
            stored: dict[str, Rows] = {
                name: rows.cpu() if isinstance(rows, torch.Tensor) else rows
                for name, rows in columns.items()
            }
            writing.append(stored)
            progress.advance(stop - start)
        writing.finish(record.tokens, notes)

    def _columns(
        self, captured: Captured, labels: torch.Tensor, shard: int, first_row: int
    ) -> dict[str, Rows]:
        """Return the columns of one batch, in the order of its rows."""
        columns: dict[str, Rows] = {}
        if "states" in self.cache.kinds:
            settings = self.cache.states
            columns |= states.store("encoder_states", captured.encoder_states, settings)
            columns |= states.store("decoder_states", captured.decoder_states, settings)
            if settings.encoder_output:
                columns |= states.store("encoder_output", captured.encoder_output, settings)
        if self.to_end:
            assert captured.decoder_output is not None
            head, scored = self.teacher.head, labels != -100
            if "sampled" in self.cache.kinds:
                columns[sparse.SAMPLED] = sparse.sampled_column(
                    captured.decoder_output,
                    head,
                    scored,
                    self.cache.sampled,
                    seed=self.job.seed,
                    shard=shard,
                    first_row=first_row,
                )
            if "topk" in self.cache.kinds:
                k, vocab_size = self.cache.topk.k, self.vocab_size
                columns |= sparse.topk_columns(captured.decoder_output, head, scored, k, vocab_size)
        return columns

    def _fidelity(
        self, index: int, batch: dict[str, torch.Tensor], columns: dict[str, Rows]
    ) -> dict[str, Any]:
        """Return notes on a shard from its first batch.

        They say how well a replay matches the teacher, and bind the targets to their labels.
        """
        notes: dict[str, Any] = {"sample_rows": len(batch["labels"])}
        if self.tail is not None:
            dtype = getattr(torch, self.job.dtype)
            tensors = {
                name: rows for name, rows in columns.items() if isinstance(rows, torch.Tensor)
            }
            encoder = states.restore("encoder_states", tensors, self.cache.states, dtype)
            decoder = states.restore("decoder_states", tensors, self.cache.states, dtype)
            assert encoder is not None
            assert decoder is not None
            fidelity = replay_fidelity(
                self.teacher, self.tail, self.job.cuts, batch, encoder, decoder
            )
            self._require_faithful(index, fidelity)
            notes |= fidelity
        notes |= sparse.sparse_notes(self.cache, columns, batch["labels"].cpu(), self.vocab_size)
        return notes

    def _require_faithful(self, index: int, fidelity: dict[str, Any]) -> None:
        """Raise CorruptArtifact when a replay differs too much; fidelity: of `replay_fidelity`."""
        errors = {name: error["max"] for name, error in fidelity["replay_error"].items()}
        worst = max(errors, key=lambda name: errors[name])
        finite = all(error < float("inf") for error in (*errors.values(), fidelity["replay_kl"]))
        allowed = (
            TOLERANCE[self.job.dtype]
            if states.lossless(self.cache.states, self.job.dtype)
            else float("inf")
        )
        if not finite or not errors[worst] <= allowed:
            raise CorruptArtifact(
                f"cache shard {index}: replayed {worst} differs from the teacher by "
                f"{errors[worst]:.3g} of its largest value (allowed {allowed}); nothing was "
                "written for it: check that the teacher's weights are finite"
            )


def _present(root: Path, files: Sequence[str]) -> bool:
    return all((root / name).is_file() for name in files)
