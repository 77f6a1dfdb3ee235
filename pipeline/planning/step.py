"""What one micro batch of a training step keeps in memory: the step's own code, run on the meta device.

Nothing is guessed per layer: the student, the tail's replay (or the online teacher) and every loss run as they do in training, with
tensors that have shapes and no content, while `LiveBytes` counts what is alive.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch.fx.experimental import _config

from pipeline.models.architecture import Architecture
from pipeline.objectives import logits, relations
from pipeline.objectives.head import chunks
from pipeline.planning.cache_bytes import tail_weights
from pipeline.planning.live import LiveBytes
from pipeline.recipe import Cache, Distill, States
from pipeline.teacher.loaded import whole_teacher
from pipeline.teacher.tail import Tail
from pipeline.training.distiller import Distiller, teacher_places
from pipeline.training.engine import prepare_config
from pipeline.training.teachers import CachedTeacher, OnlineTeacher, Teacher

_settings: Any = _config


@dataclass(frozen=True)
class StepBytes:
    """Of one micro batch on one rank, without the batch itself, weights, their gradients and the optimizer."""

    #: Alive when the loss is known: what the backward pass needs.
    kept: int
    #: At the highest point of forward and backward pass.
    peak: int
    #: Weights of the teacher's side: the tail, or the whole online teacher.
    teacher: int


def step_bytes(
    settings: Distill,
    cache: Cache,
    student: Architecture,
    teacher: Architecture | None,
    *,
    rows: int,
    lengths: tuple[int, int],
    dtype: torch.dtype,
    teacher_dtype: torch.dtype,
    on_cpu: bool = False,
) -> StepBytes:
    """Count a forward and a backward pass over `rows` examples of `lengths` (input, target) tokens, none of them padding.

    teacher: None for an objective that needs none, or reads sampled or top-k targets. on_cpu: PyTorch keeps
    attention's scores there where there is a learned position bias, and losses work in smaller chunks.
    """
    config = copy.deepcopy(student.config)
    prepare_config(config, settings)
    model = replace(student, config=config).empty(dtype)
    model.train()
    if settings.activation_checkpointing:
        with _quietly():
            model.gradient_checkpointing_enable(
                {"use_reentrant": False, "preserve_rng_state": False}
            )
    reference = _teacher(settings, cache, teacher, teacher_dtype) if teacher is not None else None
    distiller = Distiller(model, settings.objective, reference, settings.max_steps)
    distiller.to("meta")
    converted = cache.states.dtype not in ("auto", str(teacher_dtype).removeprefix("torch."))
    batch = _batch(settings, cache, teacher, rows, lengths, teacher_dtype)
    for parameter in filter(lambda weight: weight.requires_grad, distiller.parameters()):
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    with _quietly(), _attention(fused=not on_cpu), _chunks(on_cpu), LiveBytes() as live:
        live.ignore([*distiller.parameters(), *_weights(reference), *batch.values()])
        loss = distiller(batch=batch, step=0)["loss"]
        kept = live.now
        loss.backward()
    restored = (
        sum(batch[name].nbytes for name in batch if name.endswith("_states")) if converted else 0
    )
    return StepBytes(
        kept + restored, live.peak + restored, sum(weight.nbytes for weight in _weights(reference))
    )


def forward_bytes(
    teacher: Architecture, *, rows: int, lengths: tuple[int, int], dtype: torch.dtype, whole: bool
) -> int:
    """The most a teacher's forward pass holds beside its weights; whole: whether it runs to the end."""
    model = teacher.empty(dtype)
    loaded = whole_teacher(
        model, (teacher.shape.encoder_layers - 1, teacher.shape.decoder_layers - 1)
    )
    with _quietly(), _attention(fused=True), LiveBytes() as live, torch.no_grad():
        live.ignore(model.parameters())
        loaded.run(_tokens(rows, lengths), whole)
    return live.peak


def _teacher(settings: Distill, cache: Cache, teacher: Architecture, dtype: torch.dtype) -> Teacher:
    if settings.targets == "online":
        whole = whole_teacher(teacher.empty(dtype), (0, 0))
        return OnlineTeacher(whole, *teacher_places(settings.objective, -1))
    config, weights = tail_weights(cache, teacher)
    tail = teacher.family.build_tail(
        config, {name: weight.to(dtype) for name, weight in weights.items()}
    )
    return CachedTeacher(Tail(tail, *teacher_places(settings.objective, 0)), States())


def _weights(reference: Teacher | None) -> list[torch.Tensor]:
    if isinstance(reference, CachedTeacher):
        return list(reference._tail.model.parameters())
    return (
        list(reference._teacher.model.parameters()) if isinstance(reference, OnlineTeacher) else []
    )


def _batch(
    settings: Distill,
    cache: Cache,
    teacher: Architecture | None,
    rows: int,
    lengths: tuple[int, int],
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    batch = _tokens(rows, lengths)
    positions = (rows, lengths[1])
    if settings.targets == "states" and teacher is not None:
        # As they are after `restore`, which cannot tell on the meta device how many numbers were kept apart.
        for name, length in (("encoder_states", lengths[0]), ("decoder_states", lengths[1])):
            batch[name] = torch.empty(
                (rows, length, teacher.shape.d_model), dtype=dtype, device="meta"
            )
    elif settings.targets == "sampled":
        drawn = (*positions, cache.sampled.draws)
        batch["sampled_ids"] = torch.zeros(drawn, dtype=torch.int64, device="meta")
        batch["sampled_counts"] = torch.zeros(drawn, dtype=torch.int64, device="meta")
    elif settings.targets == "topk":
        kept = (*positions, cache.topk.k)
        batch["topk_ids"] = torch.zeros(kept, dtype=torch.int64, device="meta")
        batch["topk_log_probabilities"] = torch.zeros(kept, dtype=torch.float32, device="meta")
        batch["topk_log_tail"] = torch.zeros(positions, dtype=torch.float32, device="meta")
    return batch


def _tokens(rows: int, lengths: tuple[int, int]) -> dict[str, torch.Tensor]:
    names = (("input_ids", lengths[0]), ("attention_mask", lengths[0]), ("labels", lengths[1]))
    return {
        name: torch.zeros((rows, length), dtype=torch.int64, device="meta")
        for name, length in names
    }


def _drop_gradient(parameter: torch.Tensor) -> None:
    # DeepSpeed takes each gradient away as soon as it is there; the plan counts its own buffers for them.
    parameter.grad = None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Masks are all true here, which a tensor without content cannot say; and nobody wants advice about a model of no weights."""
    with warnings.catch_warnings(), _settings.patch(meta_nonzero_assume_all_nonzero=True):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _chunks(on_cpu: bool) -> Iterator[None]:
    """Let losses on the meta device, which they take for a GPU, work in a CPU's chunks."""
    with contextlib.ExitStack() as changed:
        for module in (chunks, logits, relations) if on_cpu else ():
            changed.enter_context(mock.patch.object(module, "CHUNK_CUDA", module.CHUNK_CPU))
        yield


@contextlib.contextmanager
def _attention(fused: bool) -> Iterator[None]:
    """Let a stand-in for fused kernels, which the meta device does not have, compute attention: scores are not kept.

    Transformers looks the function up at each call, in the recomputation of activation checkpointing too, where modes do not reach.
    """
    functional: Any = torch.nn.functional
    own = functional.scaled_dot_product_attention

    def attention(q: Any, k: Any, v: Any, attn_mask: Any = None, **kwargs: Any) -> torch.Tensor:
        if fused or attn_mask is None or not attn_mask.requires_grad:
            return _FusedAttention.apply(q, k, v, attn_mask)
        return own(q, k, v, attn_mask=attn_mask, **kwargs)

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


class _FusedAttention(torch.autograd.Function):
    """Allocates and keeps what a fused kernel does: its inputs, its output and a log-sum-exp a row."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        normaliser = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, k, v, bias, out, normaliser)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, bias, _, _ = ctx.saved_tensors
        for_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[3] else None
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), for_bias
