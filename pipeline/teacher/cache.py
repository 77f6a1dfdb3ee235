"""Caching a teacher: for every token shard the targets a recipe asks for, and once the tail that replays its states."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline import lineage
from pipeline.artifacts import Artifact, Output, ShardRecord, lock
from pipeline.artifacts.shard import Rows
from pipeline.console import Progress, say
from pipeline.errors import ConfigError, CorruptArtifact
from pipeline.hardware import resolve_dtype
from pipeline.models import open_model
from pipeline.models.writing import write_tail
from pipeline.recipe import Recipe
from pipeline.teacher import sparse, states
from pipeline.teacher.capture import Captured, resolve_cut
from pipeline.teacher.fidelity import replay_fidelity
from pipeline.teacher.loaded import WHOLE, LoadedTeacher, Loader
from pipeline.teacher.rows import model_inputs
from pipeline.teacher.size import cache_bytes, require_disk
from pipeline.teacher.tail import TAIL_FILES, Tail
from pipeline.teacher.vocabulary import check_vocabulary
from pipeline.teacher.writing import Writing

#: Replay may differ from the teacher by rounding (a GPU may choose other kernels); more than this is a fault.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2}


class _Facts(NamedTuple):
    """What the recipe and the teacher's configuration decide before the teacher is loaded."""

    cuts: tuple[int, int]
    width: int
    vocab_size: int


def cache_teacher(
    recipe: Recipe, rank: int = 0, world: int = 1, shards: str | None = None, loader: Loader = WHOLE
) -> Output:
    """Bring RUN/teacher_cache/<teacher.name> to completion; this process takes what is missing of every `world`-th shard.

    shards: restricts the work of all processes to these, as `chosen_shards` reads them. loader: how the teacher is brought up.
    Raises ConfigError when teacher and tokens do not fit,
    ArtifactError when the disk is too small for the whole cache, and CorruptArtifact when replaying a shard's sample does not give
    what the teacher gives.
    """
    output = lineage.cache_output(recipe)
    if output.complete():
        return output
    tokens = lineage.tokens_artifact(recipe, "train")
    tokens.require_sizes()
    facts = _check(recipe)
    output.begin()
    missing = output.missing(len(tokens.shards))
    left = [tokens.shards[index] for index in missing]
    require_disk(
        output.root,
        cache_bytes(recipe.cache, left, facts.width, facts.vocab_size, output.payload["dtype"]),
    )
    # By index and not by place in `missing`: a process that starts late finds less missing than one that started early.
    share = chosen_shards(shards, len(tokens.shards))[rank::world]
    mine = sorted(set(share) & set(missing))
    files = TAIL_FILES if "states" in recipe.cache.kinds else ()
    tail_is_mine = 0 in share and not _present(output.root, files)
    if mine or tail_is_mine or (loader.together and (missing or not _present(output.root, files))):
        teacher = loader.load(lineage.required_teacher(recipe), facts.cuts)
        worker = _Worker(recipe, output, tokens, facts, teacher)
        if tail_is_mine:
            with lock.in_turn(output.root):  # with the same command started twice
                if not _present(output.root, files):
                    write_tail(*worker.tail_state, output.root / "tail")
        worker.run(mine, quiet=rank != 0)
        teacher.close()
    if _present(output.root, files) and output.finish(
        len(tokens.shards), files, provenance={"world_size": world}
    ):
        say(f"teacher_cache: {len(tokens.shards)} shards complete in {output.root}")
    return output


def chosen_shards(text: str | None, count: int) -> list[int]:
    """Indices below `count` that `text` names: `3,7-9`, or `1::4` for every fourth from 1 on; all when None.

    Those beyond the last are left out. Raises ConfigError for anything else.
    """
    if text is None:
        return list(range(count))
    chosen: set[int] = set()
    for item in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+)|::([1-9]\d*))?", item)
        if found is None:
            raise ConfigError(f"--shards {text}: write 3,7-9, or 1::4 for every fourth from 1 on")
        first, last, step = found.groups()
        stop = int(last) + 1 if last else count if step else int(first) + 1
        chosen.update(range(int(first), min(stop, count), int(step or 1)))
    return sorted(chosen)


def _check(recipe: Recipe) -> _Facts:
    """Raise ConfigError for what would fail later, before anything is written."""
    spec, cache = lineage.required_teacher(recipe), recipe.cache
    directory = open_model(spec.model)
    config, shape = directory.architecture, directory.architecture.shape
    config.check_dtype(resolve_dtype(spec.dtype), "teacher.dtype")
    check_vocabulary(
        spec.model, directory.path, config.vocab_size, lineage.tokenizer_directory(recipe)
    )
    config.check_length(recipe.tokens.input_length, "tokens.input_length")
    cuts = (
        resolve_cut(cache.encoder_cut, shape.encoder_layers, "encoder_cut"),
        resolve_cut(cache.decoder_cut, shape.decoder_layers, "decoder_cut"),
    )
    if "topk" in cache.kinds and cache.topk.k >= config.vocab_size:
        raise ConfigError(
            f"cache.topk.k {cache.topk.k}: the teacher's vocabulary has {config.vocab_size} tokens"
        )
    return _Facts(cuts, shape.d_model, config.vocab_size)


class _Worker:
    """A loaded teacher that turns token shards into cache shards."""

    def __init__(
        self,
        recipe: Recipe,
        output: Output,
        tokens: Artifact,
        facts: _Facts,
        teacher: LoadedTeacher,
    ) -> None:
        self.output, self.tokens, self.cache, self.seed = output, tokens, recipe.cache, recipe.seed
        self.facts, self.teacher = facts, teacher
        self.dtype = resolve_dtype(lineage.required_teacher(recipe).dtype)
        config: Any = teacher.model.config
        self.pad_token_id: int = config.pad_token_id
        self.has_states = "states" in self.cache.kinds
        self.whole = bool({"sampled", "topk"} & set(self.cache.kinds))
        self.tail_state: tuple[Any, dict[str, torch.Tensor]] = (
            teacher.tail() if self.has_states else (None, {})
        )
        self.tail = Tail(teacher.family.build_tail(*self.tail_state)) if self.has_states else None

    def run(self, shards: list[int], *, quiet: bool) -> None:
        records = [self.tokens.shards[index] for index in shards]
        with (
            Writing() as writing,
            Progress(
                "cache_teacher", sum(record.rows for record in records), "row", quiet=quiet
            ) as progress,
        ):
            # Where ranks make their passes together, those that are done early take part in what the others still need.
            mine = sum(
                math.ceil(record.rows / self.cache.batch_size) + self.has_states
                for record in records
            )
            most = self.teacher.most_passes(mine) if self.teacher.most_passes is not None else mine
            for record in records:
                self._shard(record, writing, progress)
            for _ in range(most - mine):
                self.teacher.run(self._batch(0, 0, 1), self.whole)

    def _batch(self, shard: int, start: int, stop: int) -> dict[str, torch.Tensor]:
        rows = self.tokens.rows(shard, slice(start, stop), ("input_ids", "labels"))
        inputs = model_inputs(rows, self.pad_token_id)
        return {name: tensor.to(self.teacher.device) for name, tensor in inputs.items()}

    def _shard(self, record: ShardRecord, writing: Writing, progress: Progress) -> None:
        index, size = record.index, self.cache.batch_size
        writing.begin(self.output, index, record.rows)
        notes: dict[str, Any] = {"token_shard_sha256": record.sha256}
        for start in range(0, record.rows, size):
            stop = min(start + size, record.rows)
            batch = self._batch(index, start, stop)
            captured = self.teacher.run(batch, self.whole)
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
        """The columns of one batch, in the order of its rows."""
        columns: dict[str, Rows] = {}
        if "states" in self.cache.kinds:
            settings = self.cache.states
            columns |= states.store("encoder_states", captured.encoder_states, settings)
            columns |= states.store("decoder_states", captured.decoder_states, settings)
            if settings.encoder_output:
                columns |= states.store("encoder_output", captured.encoder_output, settings)
        if self.whole:
            assert captured.decoder_output is not None
            head, scored = self.teacher.head, labels != -100
            if "sampled" in self.cache.kinds:
                columns[sparse.SAMPLED] = sparse.sampled_column(
                    captured.decoder_output,
                    head,
                    scored,
                    self.cache.sampled,
                    seed=self.seed,
                    shard=shard,
                    first_row=first_row,
                )
            if "topk" in self.cache.kinds:
                k, vocab_size = self.cache.topk.k, self.facts.vocab_size
                columns |= sparse.topk_columns(captured.decoder_output, head, scored, k, vocab_size)
        return columns

    def _fidelity(
        self, index: int, batch: dict[str, torch.Tensor], columns: dict[str, Rows]
    ) -> dict[str, Any]:
        """Notes on a shard from its first batch: how well it gives back the teacher, and what ties it to its labels."""
        notes: dict[str, Any] = {"sample_rows": len(batch["labels"])}
        if self.tail is not None:
            dtype = getattr(torch, self.dtype)
            tensors = {
                name: rows for name, rows in columns.items() if isinstance(rows, torch.Tensor)
            }
            encoder = states.restore("encoder_states", tensors, self.cache.states, dtype)
            decoder = states.restore("decoder_states", tensors, self.cache.states, dtype)
            assert encoder is not None
            assert decoder is not None
            found = replay_fidelity(
                self.teacher, self.tail, self.facts.cuts, batch, encoder, decoder
            )
            self._require_faithful(index, found)
            notes |= found
        notes |= sparse.sparse_notes(
            self.cache, columns, batch["labels"].cpu(), self.facts.vocab_size
        )
        return notes

    def _require_faithful(self, index: int, found: dict[str, Any]) -> None:
        errors = {name: error["max"] for name, error in found["replay_error"].items()}
        worst = max(errors, key=lambda name: errors[name])
        finite = all(error < float("inf") for error in (*errors.values(), found["replay_kl"]))
        allowed = (
            TOLERANCE[self.dtype]
            if states.lossless(self.cache.states, self.dtype)
            else float("inf")
        )
        if not finite or not errors[worst] <= allowed:
            raise CorruptArtifact(
                f"cache shard {index}: replayed {worst} differs from the teacher by {errors[worst]:.3g} of its largest value "
                f"(allowed {allowed}); nothing was written for it: check that the teacher's weights are finite"
            )


def _present(root: Path, files: Sequence[str]) -> bool:
    return all((root / name).is_file() for name in files)
