"""The figures of one link: disk, bandwidth, operations, hours and memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from pipeline.distillation.objective import part_weights
from pipeline.distillation.places import looks_at_encoder_blocks
from pipeline.models.architecture import Architecture
from pipeline.objectives import presets
from pipeline.planning import cache_bytes
from pipeline.planning.assumptions import PlanAssumptions
from pipeline.planning.cache_bytes import CacheFigures
from pipeline.planning.chain import Chain, Link
from pipeline.planning.corpus_rows import CorpusRows
from pipeline.planning.memory import RankMemory, rank_memory
from pipeline.planning.settings import PlannedSettings
from pipeline.planning.step import StepBytes, forward_bytes, step_bytes
from pipeline.recipe import Distill
from pipeline.training.configuration import read_deepspeed_json


class LinkEstimate:
    """Everything about one link; each figure is computed when it is asked for.

    A `kind` is one of cache_bytes.KINDS, "online", or "none" if nothing is compared with a teacher.
    """

    def __init__(
        self, settings: PlannedSettings, link: Link, rows: CorpusRows, assumed: PlanAssumptions
    ) -> None:
        self.settings, self.link, self.rows, self.assumed = settings, link, rows, assumed
        self.student = link.student.architecture
        self.weights = part_weights(settings.distill.objective)
        self.compares = link.teacher is not None and presets.needs_teacher(self.weights)

    @property
    def teacher(self) -> Architecture:
        """The teacher of a link that has one."""
        assert self.link.teacher is not None
        return self.link.teacher.architecture

    @property
    def samples(self) -> int:
        """Rows that the student sees, counted each time."""
        return self.link.steps * self.settings.distill.batch_size

    @cached_property
    def caches(self) -> dict[str, CacheFigures]:
        """The caches that could be made, by kind; none if nothing is compared with the teacher."""
        return {kind: self._cache(kind) for kind in cache_bytes.KINDS} if self.compares else {}

    @property
    def teacher_dtype(self) -> str:
        return self.assumed.dtype(self.settings.teacher_dtype)

    @property
    def dtype(self) -> str:
        return self.assumed.dtype(self.settings.distill.dtype)

    def caching_operations(self, kind: str) -> float:
        """Return the operations of one row's pass through the teacher.

        For states it ends at the decoder's cut, else after the LM head.
        """
        if not kind.startswith("states"):
            return self.teacher.forward_flops(*self.rows.lengths).total
        _, decoder_cut = cache_bytes.cuts_of(self.settings.cache, self.teacher)
        return self.teacher.forward_flops(
            *self.rows.lengths, logits=False, decoder_blocks=decoder_cut
        ).total

    def step_operations(self, kind: str) -> float:
        """Return the operations of one row of a training step, those of the teacher included."""
        return self.student.training_flops(*self.rows.lengths).total + self._teacher_operations(
            kind
        )

    def rows_per_second(self, kind: str) -> float:
        assumed = self.assumed
        return assumed.gpus * assumed.peak_flops * assumed.mfu / self.step_operations(kind)

    def training_hours(self, kind: str) -> float:
        return self.assumed.hours(self.samples * self.step_operations(kind))

    def caching_hours(self, kind: str) -> float:
        return self.assumed.hours(self.rows.rows * self.caching_operations(kind))

    @property
    def micro_batch(self) -> int:
        settings = self.settings.distill
        return settings.micro_batch_size or max(1, settings.batch_size // self.assumed.gpus)

    def memory(self, kind: str, *, checkpointing: bool | None = None) -> RankMemory:
        """Return the memory of one rank that trains on targets of this kind.

        checkpointing: replaces the recipe's distill.activation_checkpointing.
        """
        settings = self.settings.distill
        if checkpointing is not None:
            settings = settings.model_copy(update={"activation_checkpointing": checkpointing})
        # Tokens and masks are int64 on the device.
        row = 8.0 * (2 * self.rows.input_length + self.rows.target_length)
        row += self.caches[kind].row_bytes if kind in self.caches else 0.0
        return rank_memory(
            read_deepspeed_json(settings.deepspeed),
            self.student.size.total,
            self.assumed.gpus,
            self.dtype,
            self._step_bytes(settings, kind),
            row * settings.batch_size / self.assumed.gpus,
        )

    def caching_memory(self, kind: str) -> float:
        """Return the bytes of a process that caches: teacher's weights and its forward pass."""
        dtype = getattr(torch, self.teacher_dtype)
        passing = forward_bytes(
            self.teacher,
            rows=self.settings.cache.batch_size,
            lengths=self.rows.lengths,
            dtype=dtype,
            whole=not kind.startswith("states"),
        )
        return self.teacher.size.total * dtype.itemsize + passing

    def _cache(self, kind: str) -> CacheFigures:
        cache, dtype = cache_bytes.variant(self.settings.cache, kind), self.teacher_dtype
        row = cache_bytes.bytes_of_row(cache, self.rows, self.teacher, dtype)
        shards = cache_bytes.shard_bytes(cache, self.rows, self.teacher, dtype)
        tail = cache_bytes.tail_bytes(cache, self.teacher, dtype)
        # Tokens are read from their own artifact.
        tokens = self.rows.positions * (2 if self.student.vocab_size <= 1 << 16 else 4)
        bandwidth = (row + tokens) * self.rows_per_second(kind)
        return CacheFigures(row, shards, tail, shards + tail, bandwidth)

    def _step_bytes(self, settings: Distill, kind: str) -> StepBytes:
        targets = kind.split()[0] if self.compares else settings.targets
        cache = self.settings.cache
        return step_bytes(
            settings.model_copy(update={"targets": targets}),
            cache_bytes.variant(cache, kind) if kind in self.caches else cache,
            self.student,
            self.teacher if self.compares and targets in ("states", "online") else None,
            rows=self.micro_batch,
            lengths=self.rows.lengths,
            dtype=getattr(torch, self.dtype),
            teacher_dtype=getattr(torch, self.teacher_dtype),
            on_cpu=self.assumed.gpu == "cpu",
        )

    def _teacher_operations(self, kind: str) -> float:
        """Return the operations of the teacher for one row of a training step."""
        if not self.compares or kind in ("sampled", "topk"):
            return 0.0
        teacher, logits = self.teacher, "logits" in self.weights
        if kind == "online":
            return teacher.forward_flops(*self.rows.lengths, logits=logits).total
        encoder_cut, decoder_cut = cache_bytes.cuts_of(self.settings.cache, teacher)
        if self.settings.cache.states.encoder_output and not looks_at_encoder_blocks(
            self.settings.distill.objective
        ):
            encoder_cut = teacher.shape.encoder_layers
        cuts = encoder_cut, decoder_cut
        return teacher.tail_flops(cuts, *self.rows.lengths, logits=logits).total


def estimates(
    settings: PlannedSettings, chain: Chain, rows: CorpusRows, assumed: PlanAssumptions
) -> list[LinkEstimate]:
    """Return the estimate of the direct student, then those of the chain's links."""
    return [LinkEstimate(settings, link, rows, assumed) for link in (chain.direct, *chain.links)]


def readers(every: Sequence[LinkEstimate], one: LinkEstimate) -> list[LinkEstimate]:
    """Return the links that read the same cache as `one`."""
    return [other for other in every if other.link.teacher is one.link.teacher]
