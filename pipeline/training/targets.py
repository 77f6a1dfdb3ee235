"""Distillation's rows and losses: token rows joined with cached states, replayed and compared with the student."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.artifacts import Artifact
from pipeline.errors import ConfigError, StaleArtifact
from pipeline.families import Attention, Shape, family_of
from pipeline.families.recorder import QKV, ProjectionRecorder
from pipeline.objectives import presets
from pipeline.objectives.hidden import hidden_loss
from pipeline.objectives.logits import divergence, lm_loss
from pipeline.objectives.relations import relation_loss
from pipeline.recipe import Objective
from pipeline.student.shapes import check_relation_heads
from pipeline.teacher.rows import model_inputs
from pipeline.teacher.tail import Tail, load_tail
from pipeline.training import distributed
from pipeline.training.loader import Batch
from pipeline.training.order import Row

_ATTENTION: dict[str, Attention] = {
    "encoder_relations": "encoder_self",
    "decoder_relations": "decoder_self",
    "cross_relations": "cross",
}


class TokenSource:
    """Rows of a token artifact, with the teacher's states where a cache is given.

    Raises StaleArtifact unless cache shard i was made from the very bytes of token shard i.
    """

    def __init__(self, tokens: Artifact, cache: Artifact | None, pad_token_id: int) -> None:
        self._tokens, self._cache, self._pad = tokens, cache, pad_token_id
        self.shard_rows = [shard.rows for shard in tokens.shards]
        if cache is not None:
            _require_aligned(tokens, cache)

    def read(self, rows: list[Row]) -> Batch:
        batch = model_inputs(self._gather(self._tokens, rows, ("input_ids", "labels")), self._pad)
        if self._cache is not None:
            batch |= self._gather(self._cache, rows, ("encoder_states", "decoder_states"))
        return batch

    @staticmethod
    def _gather(artifact: Artifact, rows: list[Row], columns: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Read rows shard by shard, then put them in the order asked for."""
        parts: dict[str, list[torch.Tensor]] = {column: [] for column in columns}
        places: list[int] = []
        for shard in sorted({shard for shard, _ in rows}):
            mine = [(row, place) for place, (which, row) in enumerate(rows) if which == shard]
            places += [place for _, place in mine]
            for column, tensor in artifact.rows(shard, [row for row, _ in mine], columns).items():
                parts[column].append(tensor)
        order = torch.tensor(places).argsort()
        # Unsigned integers cannot be indexed on every backend, so ids are widened first.
        return {name: torch.cat([_widened(t) for t in tensors])[order] for name, tensors in parts.items()}


def check_objective(objective: Objective, student: Shape, teacher: Shape) -> None:
    """Raise ConfigError for widths of student and teacher that a part of the objective cannot compare."""
    weights = presets.resolve(objective.preset, objective.weights)
    if any(part in _ATTENTION for part in weights):
        heads = objective.relation_heads or student.num_heads
        check_relation_heads(heads, student=student.attention_width, teacher=teacher.attention_width)
    if "hidden" in weights and student.d_model != teacher.d_model:
        raise ConfigError(
            f"objective part hidden compares equal widths, but d_model is {student.d_model} in the student and "
            f"{teacher.d_model} in the teacher: leave the part out"
        )


class DistillLoss:
    """The weighted sum of an objective's parts for one micro batch; callable as the loop's LossFn."""

    def __init__(self, objective: Objective, student: PreTrainedModel, tail: Tail | None) -> None:
        """tail: the teacher's, needed unless the objective is the LM loss alone. Raises ConfigError for widths that do not fit."""
        self.weights = presets.resolve(objective.preset, objective.weights)
        self.temperature = objective.temperature
        self._tail, self._recorder = tail, None
        if tail is None:
            assert not presets.needs_teacher(self.weights)
            return
        family = family_of(student.config)
        shape, teacher = family.shape(student.config), tail.family.shape(tail.model.config)
        check_objective(objective, shape, teacher)
        self.relation_heads = objective.relation_heads or shape.num_heads
        attentions = {_ATTENTION[part] for part in self.weights if part in _ATTENTION}
        if attentions:
            self._recorder = ProjectionRecorder(student, family, dict.fromkeys(attentions, -1))

    def __call__(self, engine: Any, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        labels, mask = batch["labels"], batch["attention_mask"]
        output = engine(input_ids=batch["input_ids"], attention_mask=mask, labels=labels, use_cache=False)
        parts: dict[str, torch.Tensor] = {"lm": lm_loss(output.logits, labels)}
        if self._tail is not None:
            teacher = self._tail.replay(batch["encoder_states"], batch["decoder_states"], mask)
            valid = labels != -100
            masks = {"encoder": mask, "decoder": valid}
            if "logits" in self.weights:
                parts["logits"] = divergence(output.logits, teacher.logits, valid, temperature=self.temperature)
            if "hidden" in self.weights:
                parts["hidden"] = hidden_loss(output.encoder_last_hidden_state, teacher.encoder_output, mask)
            for part in self.weights.keys() & _ATTENTION.keys():
                assert self._recorder is not None
                attention = _ATTENTION[part]
                parts[part] = self._relations(
                    part, teacher.projections[attention], self._recorder.recorded[attention], masks
                )
        total = torch.stack([weight * parts[part].float() for part, weight in self.weights.items()]).sum()
        return {"loss": total, **parts}

    def close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()

    def _relations(self, part: str, teacher: QKV, student: QKV, masks: dict[str, torch.Tensor]) -> torch.Tensor:
        losses = [
            relation_loss(
                (teacher[pair.a], teacher[pair.b]),
                (student[pair.a], student[pair.b]),
                relation_heads=self.relation_heads,
                query_mask=masks[pair.rows],
                key_mask=masks[pair.columns],
                causal=pair.causal,
            )
            for pair in presets.RELATION_PAIRS[part]
        ]
        return torch.stack(losses).mean()


class LanguageModelValidation:
    """Mean LM loss over the first rows of held-out tokens; the same rows whatever the number of ranks."""

    def __init__(self, tokens: Artifact, pad_token_id: int, rows: int, batch_size: int) -> None:
        self._source = TokenSource(tokens, None, pad_token_id)
        available = [(shard, row) for shard, count in enumerate(self._source.shard_rows) for row in range(count)]
        self._rows, self._batch_size = available[:rows], batch_size

    @torch.no_grad()
    def __call__(self, engine: Any, step: int) -> dict[str, float]:
        rank, world = distributed.rank(), distributed.world_size()
        loss_sum = count = 0.0
        # Under ZeRO-3 every rank must make the same number of forward calls, so a rank without rows scores ignored ones.
        for start in range(0, len(self._rows), self._batch_size * world):
            mine = self._rows[start + rank * self._batch_size : start + (rank + 1) * self._batch_size]
            batch = self._source.read(mine or self._rows[:1])
            if not mine:
                batch["labels"] = torch.full_like(batch["labels"], -100)
            batch = {name: tensor.to(distributed.device()) for name, tensor in batch.items()}
            logits = engine(**batch, use_cache=False).logits
            tokens = int((batch["labels"] != -100).sum())
            loss_sum += float(lm_loss(logits, batch["labels"])) * tokens
            count += tokens
        loss_sum, count = distributed.sum_over_ranks([loss_sum, count])
        return {"lm_loss": loss_sum / max(count, 1.0)}


def open_tail(cache: Artifact) -> Tail:
    return load_tail(cache.root / "tail", distributed.device())


def _require_aligned(tokens: Artifact, cache: Artifact) -> None:
    if len(tokens.shards) != len(cache.shards):
        raise StaleArtifact(
            f"{cache.root} has {len(cache.shards)} shards, {tokens.root} has {len(tokens.shards)}: cache again"
        )
    for ours, theirs in zip(tokens.shards, cache.shards, strict=True):
        if theirs.notes.get("token_shard_sha256") != ours.sha256 or theirs.rows != ours.rows:
            raise StaleArtifact(
                f"shard {ours.index} of {cache.root} was not made from shard {ours.index} of {tokens.root}: "
                "remove its sidecar and run cache_teacher again"
            )


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int64) if tensor.dtype in (torch.uint16, torch.uint32) else tensor
