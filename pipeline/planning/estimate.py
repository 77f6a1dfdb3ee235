"""The figures of a plan: for every link its disk, bandwidth, operations, hours and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from pipeline.distillation.objective import part_weights
from pipeline.distillation.places import looks_at_encoder_blocks
from pipeline.families import Shape, family_of
from pipeline.hardware import resolve_dtype
from pipeline.models import flops
from pipeline.objectives import presets
from pipeline.planning import disk
from pipeline.planning.chain import Chain, Link, Model
from pipeline.planning.disk import Rows
from pipeline.planning.gpus import Device
from pipeline.planning.memory import RankMemory, rank_memory
from pipeline.planning.step import forward_bytes, step_bytes
from pipeline.recipe import Cache, Recipe
from pipeline.training.configuration import read_deepspeed_json


@dataclass(frozen=True)
class Assumed:
    """What a plan cannot find out."""

    gpu: str
    device: Device
    gpus: int
    #: Share of the device's peak that training and caching reach.
    mfu: float
    #: Bytes there are for caches.
    disk: float

    def hours(self, operations: float) -> float:
        """GPU-hours of so many operations."""
        return operations / (self.device.peak_flops * self.mfu) / 3600

    def dtype(self, asked: str) -> str:
        """`auto` is what the devices will find when they are there, whatever this machine has."""
        return (
            asked if asked != "auto" else resolve_dtype("auto") if self.gpu == "cpu" else "bfloat16"
        )


@dataclass(frozen=True)
class Kind:
    """One kind of target for one link."""

    name: str
    cache: Cache
    #: Bytes of a row, of all shards, and of the tail beside them.
    row: float
    shards: float
    tail: int
    #: Bytes a second that all ranks together read while they train.
    bandwidth: float

    @property
    def total(self) -> float:
        return self.shards + self.tail


class LinkEstimate:
    """Everything about one link; figures are worked out when they are asked for."""

    def __init__(self, recipe: Recipe, link: Link, rows: Rows, assumed: Assumed) -> None:
        self.recipe, self.link, self.rows, self.assumed = recipe, link, rows, assumed
        self.weights = part_weights(recipe.distill.objective)
        self.compares = link.teacher is not None and presets.needs_teacher(self.weights)

    @property
    def samples(self) -> int:
        """Rows that the student sees, each time it sees them."""
        return self.link.steps * self.recipe.distill.batch_size

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The kinds that could be cached; none where nothing is compared with the teacher."""
        if not self.compares or self.link.teacher is None:
            return {}
        found = {}
        dtype = self.teacher_dtype
        for name in disk.KINDS:
            cache = disk.variant(self.recipe.cache, name)
            row = disk.bytes_of_row(cache, self.rows, self.link.teacher, dtype)
            shards = disk.shard_bytes(cache, self.rows, self.link.teacher, dtype)
            tail = disk.tail_bytes(cache, self.link.teacher, dtype)
            bandwidth = (row + self.token_bytes) * self.rows_per_second(name)
            found[name] = Kind(name, cache, row, shards, tail, bandwidth)
        return found

    @property
    def token_bytes(self) -> int:
        return self.rows.positions * (2 if self.link.student.config.vocab_size <= 1 << 16 else 4)

    @property
    def teacher_dtype(self) -> str:
        return self.assumed.dtype(
            self.recipe.teacher.dtype if self.recipe.teacher is not None else "auto"
        )

    @property
    def dtype(self) -> str:
        return self.assumed.dtype(self.recipe.distill.dtype)

    def caching_operations(self, kind: str) -> float:
        """Of one row's pass through the teacher: to the decoder's cut for states, else to the end."""
        assert self.link.teacher is not None
        shape, sparse = self.link.teacher.shape, not kind.startswith("states")
        seen = (
            shape
            if sparse
            else replace(
                shape, decoder_layers=disk.cuts_of(self.recipe.cache, self.link.teacher)[1]
            )
        )
        return flops.forward_flops(
            seen, *self._lengths, **_head(self.link.teacher), logits=sparse
        ).total

    def step_operations(self, kind: str) -> float:
        """Of one row of a training step: the student's passes and the teacher's side of the objective."""
        own = flops.training_flops(
            self.link.student.shape, *self._lengths, **_head(self.link.student)
        ).total
        return own + self._teacher_operations(kind)

    def rows_per_second(self, kind: str) -> float:
        device = self.assumed.device
        return self.assumed.gpus * device.peak_flops * self.assumed.mfu / self.step_operations(kind)

    def training_hours(self, kind: str) -> float:
        return self.assumed.hours(self.samples * self.step_operations(kind))

    def caching_hours(self, kind: str) -> float:
        return self.assumed.hours(self.rows.rows * self.caching_operations(kind))

    @property
    def micro_batch(self) -> int:
        settings = self.recipe.distill
        return settings.micro_batch_size or max(1, settings.batch_size // self.assumed.gpus)

    def memory(self, kind: str, *, checkpointing: bool | None = None) -> RankMemory:
        """Of one rank that trains on targets of this kind (or "online"); checkpointing: in place of what the recipe says."""
        settings, teacher = self.recipe.distill, self.link.teacher
        if checkpointing is not None:
            settings = settings.model_copy(update={"activation_checkpointing": checkpointing})
        targets = kind.split()[0] if self.compares else settings.targets
        reads_states = self.compares and targets in ("states", "online")
        step = step_bytes(
            settings.model_copy(update={"targets": targets}),
            self.kinds[kind].cache if kind in self.kinds else self.recipe.cache,
            self.link.student,
            teacher if reads_states else None,
            rows=self.micro_batch,
            lengths=self._lengths,
            dtype=getattr(torch, self.dtype),
            teacher_dtype=getattr(torch, self.teacher_dtype),
            on_cpu=self.assumed.gpu == "cpu",
        )
        config, parameters = read_deepspeed_json(settings.deepspeed), self.link.student.size.total
        # Tokens and masks are int64 on the device.
        row = 8.0 * (2 * self.rows.input_length + self.rows.target_length)
        row += self.kinds[kind].row if kind in self.kinds else 0.0
        batch = row * settings.batch_size / self.assumed.gpus
        return rank_memory(config, parameters, self.assumed.gpus, self.dtype, step, batch)

    def caching_memory(self, kind: str) -> float:
        """Bytes of a process that caches: the teacher's weights and its forward pass."""
        assert self.link.teacher is not None
        dtype = getattr(torch, self.teacher_dtype)
        sparse = not kind.startswith("states")
        rows = self.recipe.cache.batch_size
        passing = forward_bytes(
            self.link.teacher, rows=rows, lengths=self._lengths, dtype=dtype, whole=sparse
        )
        return self.link.teacher.size.total * dtype.itemsize + passing

    @property
    def _lengths(self) -> tuple[int, int]:
        return self.rows.input_length, self.rows.target_length

    def _teacher_operations(self, kind: str) -> float:
        teacher = self.link.teacher
        if not self.compares or teacher is None or kind in ("sampled", "topk"):
            return 0.0
        logits = "logits" in self.weights
        if kind == "online":
            return flops.forward_flops(
                teacher.shape, *self._lengths, **_head(teacher), logits=logits
            ).total
        cuts = disk.cuts_of(self.recipe.cache, teacher)
        if self.recipe.cache.states.encoder_output and not looks_at_encoder_blocks(
            self.recipe.distill.objective
        ):
            cuts = teacher.shape.encoder_layers, cuts[1]
        return flops.tail_flops(
            teacher.shape, cuts, *self._lengths, **_head(teacher), logits=logits
        ).total


def estimates(recipe: Recipe, chain: Chain, rows: Rows, assumed: Assumed) -> list[LinkEstimate]:
    """The direct student's, and then those of the chain's links."""
    return [LinkEstimate(recipe, link, rows, assumed) for link in (chain.direct, *chain.links)]


def capacity_ratio(teacher: Model, student: Model) -> float:
    """Non-embedding parameters of a link's teacher over its student's (arXiv 2311.07052 finds about 2.5 best)."""
    return teacher.size.blocks / student.size.blocks


def readers(all_of_them: Sequence[LinkEstimate], one: LinkEstimate) -> list[LinkEstimate]:
    """The links that read the same cache as `one`."""
    return [other for other in all_of_them if other.link.teacher is one.link.teacher]


def _head(model: Model) -> dict[str, Any]:
    family = family_of(model.config)
    return {"vocab_size": family.head_size(model.config), "gated": family.gated(model.config)}


def layers(shape: Shape) -> str:
    return f"{shape.encoder_layers}+{shape.decoder_layers}"
