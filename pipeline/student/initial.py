"""A student's first weights: random, or from its teacher.

A student of a teacher's weights has fewer blocks, and widths cut to the units that matter most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.base import Stack
from pipeline.families.units import RESIDUAL, Axes
from pipeline.models import ModelDirectory
from pipeline.models.architecture import Architecture
from pipeline.models.loading import load_whole
from pipeline.models.writing import stored_weights, write_model
from pipeline.recipe import BlockList, Init
from pipeline.student.blocks import Sources, chosen_blocks, sources
from pipeline.student.importance import Batch, KeptUnits, most_important, norm_factors

Batches = Callable[[], Sequence[Batch]]

_STACKS: tuple[Stack, ...] = ("encoder", "decoder")


def check_init(init: Init, student: Shape, teacher: Shape) -> None:
    """Raise ConfigError unless a student of this shape can be made from such a teacher."""
    _chosen(init, student, teacher)
    for name in ("d_model", "d_ff", "num_heads", "d_kv"):
        asked, available = getattr(student, name), getattr(teacher, name)
        if asked > available:
            raise ConfigError(
                f"student.{name} is {asked} and the teacher's is {available}: first weights can be "
                "cut from a teacher's, not added to them; lower it, or use init: random"
            )
        if name == "d_kv" and asked < available:
            raise ConfigError(
                f"student.d_kv is {asked} and the teacher's is {available}: heads are kept or left "
                "out whole; leave it out and set num_heads, or use init: random"
            )


def narrower(student: Shape, teacher: Shape) -> bool:
    """Return whether widths are cut, so that importance must be estimated."""
    return any(
        getattr(student, name) < getattr(teacher, name) for name in ("d_model", "d_ff", "num_heads")
    )


def describe_init(init: Init | None, cut: bool) -> str:
    """Return the model card's phrase for the first weights. cut: whether widths were cut."""
    if init is None:
        return "random"
    blocks: str = (
        f"encoder {init.blocks.encoder}, decoder {init.blocks.decoder}"
        if isinstance(init.blocks, BlockList)
        else init.blocks
    )
    return f"the teacher's blocks ({blocks})" + (", widths cut by importance" if cut else "")


def write_initial_student(
    student: Architecture,
    init: Init | None,
    teacher: ModelDirectory | None,
    seed: int,
    directory: Path,
    batches: Batches | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Write the student's first weights to `directory` in float32, atomically.

    The same arguments give the same bytes.
    init: None for random weights of `seed`.
    batches: gives rows on the CPU (input_ids, attention_mask, labels) for the importance of units;
    needed if the student is narrower than its teacher. The teacher then runs on `device` in
    float32, with 8 bytes a parameter for weights and gradients.
    Raises ConfigError if the shapes of student and teacher do not allow it.
    """
    if init is None:
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(student.config, dtype=torch.float32)
        student.family.initialise(model)
        write_model(directory, student.config, stored_weights(model))
        return
    if teacher is None:
        raise ConfigError(
            "student.init layers copies blocks from a teacher, and this recipe names none: "
            "use init: random"
        )
    check_init(init, student.shape, teacher.architecture.shape)
    source = load_whole(teacher, torch.float32)
    write_model(directory, student.config, _cut(student, init, source, batches, device))


def _cut(
    student: Architecture,
    init: Init,
    teacher: PreTrainedModel,
    batches: Batches | None,
    device: torch.device | str,
) -> dict[str, torch.Tensor]:
    """Return the student's weights, made from the teacher's."""
    family = student.family
    teacher_shape = family.shape(teacher.config)
    # The loaded teacher decides about the head: a file may hold a copy of tied embeddings.
    separate_head = family.head_is_separate(dict(teacher.named_parameters()))
    names = stored_weights(Architecture(student.config, separate_head).empty())
    made_of = sources(names, family, _chosen(init, student.shape, teacher_shape))
    kept: KeptUnits = {}
    factors: dict[str, float] = {}
    if narrower(student.shape, teacher_shape):
        assert batches is not None, "a narrower student needs rows to estimate importance on"
        kept, factors = _estimate(student, made_of, teacher, batches(), device)
    whole = teacher.state_dict()
    weights = {
        name: _select(_mean(parts, whole, factors), family.axes(name), kept, teacher_shape)
        for name, parts in made_of.items()
    }
    if RESIDUAL in kept:
        family.keep_scales(weights, student.config, teacher.config)
        # Transformers computes a Marian's positions whenever it saves and loads one: features of a
        # wider table would not survive.
        for name in teacher._keys_to_ignore_on_save or ():
            weights.pop(name, None)
    return weights


def _chosen(init: Init, student: Shape, teacher: Shape) -> dict[Stack, list[list[int]]]:
    chosen = {}
    for stack in _STACKS:
        layers = f"{stack}_layers"
        chosen[stack] = chosen_blocks(
            init.blocks, stack, getattr(teacher, layers), getattr(student, layers)
        )
    return chosen


def _estimate(
    student: Architecture,
    made_of: Sources,
    teacher: PreTrainedModel,
    batches: Sequence[Batch],
    device: torch.device | str,
) -> tuple[KeptUnits, dict[str, float]]:
    """Return the units that stay, and the factors of the norms if features are left out."""
    rows = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
    teacher.to(device)  # type: ignore[arg-type]
    kept = most_important(teacher, student.family, student.shape, made_of, rows)
    factors: dict[str, float] = {}
    if RESIDUAL in kept:
        factors = norm_factors(teacher, student.family, kept[RESIDUAL], rows)
    teacher.to("cpu")  # type: ignore[arg-type]
    return kept, factors


def _mean(
    names: Sequence[str], weights: Mapping[str, torch.Tensor], factors: Mapping[str, float]
) -> torch.Tensor:
    """Return the mean of the weights `names`, each times its factor if it has one."""
    parts = [weights[name] * factors[name] if name in factors else weights[name] for name in names]
    return parts[0].clone() if len(parts) == 1 else torch.stack(parts).mean(0)


def _select(weight: torch.Tensor, axes: Axes, kept: KeptUnits, whole: Shape) -> torch.Tensor:
    """Return `weight` with the units in `kept` alone. whole: the shape it has now."""
    for axis, units in enumerate(axes):
        if units is not None and units in kept:
            width = weight.shape[axis] // getattr(whole, units.dimension)
            entries = (kept[units][:, None] * width + torch.arange(width)).flatten()
            weight = weight.index_select(axis, entries)
    return weight
