"""A student's first weights: drawn at random, or its teacher's, with fewer blocks and the widths cut to what matters most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.families import Shape, family_of
from pipeline.families.base import Stack
from pipeline.families.units import RESIDUAL
from pipeline.models.writing import stored_weights, write_model
from pipeline.recipe import BlockList, Init
from pipeline.student.blocks import chosen_blocks, sources
from pipeline.student.importance import Batch, Kept, most_important, norm_factors

_STACKS: tuple[Stack, ...] = ("encoder", "decoder")


def check_init(init: Init, student: Shape, teacher: Shape) -> None:
    """Raise ConfigError unless a student of this shape can be made of such a teacher."""
    for stack in _STACKS:
        layers = f"{stack}_layers"
        chosen_blocks(init.blocks, stack, getattr(teacher, layers), getattr(student, layers))
    for name in ("d_model", "d_ff", "num_heads", "d_kv"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours > theirs:
            raise ConfigError(
                f"student.{name} is {ours} and the teacher's is {theirs}: first weights can be cut from a teacher's, not added to "
                "them; lower it, or use init: random"
            )
        if name == "d_kv" and ours < theirs:
            raise ConfigError(
                f"student.d_kv is {ours} and the teacher's is {theirs}: heads are kept or left out whole; leave it out and set "
                "num_heads, or use init: random"
            )


def narrower(student: Shape, teacher: Shape) -> bool:
    """Whether widths are cut, so that importance must be estimated."""
    return any(
        getattr(student, name) < getattr(teacher, name) for name in ("d_model", "d_ff", "num_heads")
    )


def describe_init(init: Init | None, cut: bool) -> str:
    """Return what the model card says. cut: whether widths were."""
    if init is None:
        return "random"
    blocks = init.blocks
    if isinstance(blocks, BlockList):
        blocks = f"encoder {blocks.encoder}, decoder {blocks.decoder}"  # type: ignore[assignment]
    return f"the teacher's blocks ({blocks})" + (", widths cut by importance" if cut else "")


def write_initial_student(
    config: Any,
    init: Init | None,
    teacher: Path | None,
    seed: int,
    directory: Path,
    batches: Callable[[], Sequence[Batch]] | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Write the student's first weights to `directory` in float32, atomically; the same arguments give the same bytes.

    config: the student's configuration. init: None for random weights of `seed`. teacher: a Transformers directory. batches: gives
    rows on the CPU for the importance of units (input_ids, attention_mask, labels), needed where the student is narrower than its
    teacher; which then runs on `device`, in float32, with 8 bytes a parameter for weights and gradients.
    Raises ConfigError when the shapes of student and teacher do not allow it.
    """
    family = family_of(config)
    if init is None:
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
        family.initialise(model)
        write_model(directory, config, stored_weights(model))
        return
    if teacher is None:
        raise ConfigError(
            "student.init layers copies blocks from a teacher, and this recipe names none: use init: random"
        )
    source = AutoModelForSeq2SeqLM.from_pretrained(teacher, dtype=torch.float32).eval()
    check_init(init, family.shape(config), family.shape(source.config))
    write_model(directory, config, _cut(config, init, source, batches, device))


def _cut(
    config: Any,
    init: Init,
    teacher: PreTrainedModel,
    batches: Callable[[], Sequence[Batch]] | None,
    device: torch.device | str,
) -> dict[str, torch.Tensor]:
    family = family_of(config)
    ours, theirs = family.shape(config), family.shape(teacher.config)
    separate = family.head_is_separate(dict(teacher.named_parameters()))
    names = stored_weights(family.empty_model(config, separate))
    chosen = {
        stack: chosen_blocks(
            init.blocks, stack, len(family.blocks(teacher, stack)), getattr(ours, f"{stack}_layers")
        )
        for stack in _STACKS
    }
    made_of = sources(names, family, chosen)
    kept: Kept = {}
    factors: dict[str, float] = {}
    if narrower(ours, theirs):
        assert batches is not None, "a narrower student needs rows to estimate importance on"
        rows = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches()]
        teacher.to(device)  # type: ignore[arg-type]
        kept = most_important(teacher, family, ours, made_of, rows)
        if RESIDUAL in kept:
            factors = norm_factors(teacher, family, kept[RESIDUAL], rows)
        teacher.to("cpu")  # type: ignore[arg-type]
    whole = teacher.state_dict()
    weights = {}
    for name, parts in made_of.items():
        found = [whole[part] * factors[part] if part in factors else whole[part] for part in parts]
        weight = found[0].clone() if len(found) == 1 else torch.stack(found).mean(0)
        for axis, units in enumerate(family.axes(name)):
            if units in kept:
                weight = _select(weight, axis, kept[units], getattr(theirs, units.dimension))
        weights[name] = weight
    if RESIDUAL in kept:
        family.keep_scales(weights, config, teacher.config)
        # Transformers computes a Marian's positions anew whenever it saves and loads one: it would not keep some of a wider table.
        for name in teacher._keys_to_ignore_on_save or ():
            weights.pop(name, None)
    return weights


def _select(weight: torch.Tensor, axis: int, kept: torch.Tensor, count: int) -> torch.Tensor:
    """Keep of `count` units along an axis, each as many entries wide, those in `kept`."""
    width = weight.shape[axis] // count
    entries = (kept[:, None] * width + torch.arange(width)).flatten()
    return weight.index_select(axis, entries)
