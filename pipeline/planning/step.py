"""Memory of one micro batch of a training step: the step's own code, run on the meta device.

Nothing is guessed per layer. The student, the tail's replay (or the online teacher) and every loss
run as they do in training, with tensors that have shapes and no content, while `LiveBytes` counts
what is alive.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx.experimental import _config
from transformers import PreTrainedModel

from pipeline.distillation.distiller import Distiller
from pipeline.distillation.objective import part_weights
from pipeline.distillation.places import teacher_places
from pipeline.distillation.references import CachedTeacher, OnlineTeacher, ReferenceTeacher
from pipeline.distillation.sides import Side
from pipeline.models.architecture import Architecture
from pipeline.objectives import presets
from pipeline.objectives.scratch import CHUNK_CPU, chunks_of
from pipeline.planning.cache_bytes import tail_weights
from pipeline.planning.fused import stand_in
from pipeline.planning.live import LiveBytes
from pipeline.recipe import Cache, Distill, States
from pipeline.teacher.loaded import WholeTeacher
from pipeline.teacher.tail import Tail
from pipeline.training.engine import prepare_config

_settings: Any = _config


@dataclass(frozen=True)
class StepBytes:
    """Memory of one micro batch on one rank.

    The batch itself, weights, their gradients and the optimizer are not included.
    """

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
    """Count a forward and a backward pass over `rows` examples, none of them padding.

    lengths: input and target tokens of an example. teacher: None for an objective that needs none,
    or reads sampled or top-k targets. on_cpu: PyTorch keeps attention's scores on a CPU where there
    is a learned position bias, and losses work in smaller chunks.
    """
    model = _student(settings, student, dtype, on_cpu)
    reference = (
        None if teacher is None else _teacher(settings, cache, teacher, teacher_dtype, on_cpu)
    )
    weights = list(reference.parameters()) if reference is not None else []
    compares = presets.needs_teacher(part_weights(settings.objective))
    sides = [Side("", None, reference)] if compares else []
    distiller = Distiller(model, settings.objective, sides, settings.max_steps)
    distiller.to("meta")
    batch = _batch(settings, cache, teacher, rows, lengths, teacher_dtype)
    for parameter in filter(lambda weight: weight.requires_grad, distiller.parameters()):
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    # The losses take the meta device for a GPU.
    chunks = chunks_of(CHUNK_CPU) if on_cpu else contextlib.nullcontext()
    with _quietly(), chunks, LiveBytes() as live:
        live.ignore([*distiller.parameters(), *weights, *batch.values()])
        loss = distiller(batch=batch, step=0)["loss"]
        kept = live.now
        loss.backward()
    restored = _restored_bytes(cache, batch, teacher_dtype)
    return StepBytes(
        kept + restored, live.peak + restored, sum(weight.nbytes for weight in weights)
    )


def forward_bytes(
    teacher: Architecture, *, rows: int, lengths: tuple[int, int], dtype: torch.dtype, whole: bool
) -> int:
    """Return the most a teacher's forward pass holds in addition to its weights.

    whole: whether it runs to the end.
    """
    model = _empty(teacher, dtype, on_cpu=False)
    loaded = WholeTeacher(
        model, (teacher.shape.encoder_layers - 1, teacher.shape.decoder_layers - 1)
    )
    with _quietly(), LiveBytes() as live, torch.no_grad():
        live.ignore(model.parameters())
        loaded.run(_tokens(rows, lengths), whole)
    return live.peak


def _empty(model: Architecture, dtype: torch.dtype, on_cpu: bool) -> PreTrainedModel:
    """Return a model on the meta device; its own configuration names the stand-in."""
    empty = replace(model, config=copy.deepcopy(model.config)).empty(dtype)
    stand_in(empty, on_cpu=on_cpu)
    return empty


def _student(
    settings: Distill, student: Architecture, dtype: torch.dtype, on_cpu: bool
) -> PreTrainedModel:
    config = copy.deepcopy(student.config)
    prepare_config(config, settings)
    model = _empty(replace(student, config=config), dtype, on_cpu)
    model.train()
    if settings.activation_checkpointing:
        with _quietly():
            model.gradient_checkpointing_enable(
                {"use_reentrant": False, "preserve_rng_state": False}
            )
    return model


def _teacher(
    settings: Distill, cache: Cache, teacher: Architecture, dtype: torch.dtype, on_cpu: bool
) -> ReferenceTeacher:
    if settings.targets == "online":
        whole = WholeTeacher(_empty(teacher, dtype, on_cpu), (0, 0))
        return OnlineTeacher(whole, *teacher_places(settings.objective, -1))
    config, weights = tail_weights(cache, teacher)
    tail = teacher.family.build_tail(
        config, {name: weight.to(dtype) for name, weight in weights.items()}
    )
    stand_in(tail, on_cpu=on_cpu)
    return CachedTeacher(Tail(tail, *teacher_places(settings.objective, 0)), States())


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
        # As they are after `restore`, which cannot tell on the meta device how many numbers were
        # kept apart.
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


def _restored_bytes(cache: Cache, batch: dict[str, torch.Tensor], dtype: torch.dtype) -> int:
    """Return the bytes of the states that `restore` makes where a cache stores another dtype."""
    if cache.states.dtype in ("auto", str(dtype).removeprefix("torch.")):
        return 0
    return sum(tensor.nbytes for name, tensor in batch.items() if name.endswith("_states"))


def _tokens(rows: int, lengths: tuple[int, int]) -> dict[str, torch.Tensor]:
    names = (("input_ids", lengths[0]), ("attention_mask", lengths[0]), ("labels", lengths[1]))
    return {
        name: torch.zeros((rows, length), dtype=torch.int64, device="meta")
        for name, length in names
    }


def _drop_gradient(parameter: torch.Tensor) -> None:
    # DeepSpeed takes each gradient away as soon as it is there; the plan counts its own buffers for
    # them.
    parameter.grad = None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Take all masks for true, and silence advice about a model without weights.

    A tensor without content cannot say what its entries are.
    """
    with warnings.catch_warnings(), _settings.patch(meta_nonzero_assume_all_nonzero=True):
        warnings.simplefilter("ignore")
        yield
