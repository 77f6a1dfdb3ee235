"""Stage 4: a chain teacher ▶ assistants ▶ student, each link the same caching and distillation as stages 2 and 3."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import lineage
from pipeline.artifacts import Output
from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.models import open_model
from pipeline.recipe import BlockList, Init, Original, Recipe, Student
from pipeline.training.targets import check_targets, needs_cache, part_weights

if TYPE_CHECKING:
    from pipeline.models.architecture import Architecture


def plan_links(recipe: Recipe) -> list[Recipe]:
    """Return one recipe per link, teacher side first; the last one makes the student.

    Link i's teacher is link i-1's result. The steps of `distill` are shared between the links, so that a chain costs as many
    student steps as the direct way.
    """
    teacher = lineage.required_teacher(recipe)
    first, shapes = _shapes(recipe)
    names = _names(recipe, len(shapes))
    students = _students(recipe, shapes)
    _check(recipe, [first.shape, *shapes], students)
    steps, weight = link_steps(recipe, len(shapes)), recipe.interpolated.original_weight
    links = []
    for index, student in enumerate(students):
        name = names[index]
        distill = recipe.distill.model_copy(
            update={
                "name": name,
                "max_steps": steps[index],
                "warmup_steps": round(
                    recipe.distill.warmup_steps * steps[index] / recipe.distill.max_steps
                ),
            }
        )
        if index and weight != 0.0:
            original = Original(teacher=lineage.required_teacher(recipe), weight=weight)
            distill = distill.model_copy(update={"original": original})
            check_targets(distill, recipe.cache)
        links.append(
            recipe.model_copy(update={"teacher": teacher, "student": student, "distill": distill})
        )
        teacher = teacher.model_copy(
            update={"model": str(_link_root(recipe, name) / "hf"), "name": name}
        )
    return links


def link_names(recipe: Recipe) -> list[str]:
    """Names of the links' results below RUN/distill_interpolated/, teacher side first; the last one is the student.

    Raises ConfigError where their number follows from the teacher (`assistants: auto`) and it is not there yet.
    """
    assistants = recipe.interpolated.assistants
    if isinstance(assistants, int):
        return _names(recipe, assistants + 1)
    return _names(
        recipe,
        len(_shapes(recipe)[1] if assistants == "auto" else assistants) + (assistants != "auto"),
    )


def _names(recipe: Recipe, links: int) -> list[str]:
    name = recipe.interpolated.name
    return [*(f"{name}.assistant-{index}" for index in range(1, links)), name]


def _shapes(recipe: Recipe) -> tuple[Architecture, list[Shape]]:
    """The teacher's architecture, and the shape of every link's result."""
    from pipeline.student.chain import chain_shapes
    from pipeline.student.shapes import student_shape

    teacher = open_model(lineage.required_teacher(recipe).model).architecture
    student = student_shape(recipe.student, teacher)
    return teacher, chain_shapes(teacher, student, recipe.interpolated.assistants)


def link(recipe: Recipe, number: int) -> Recipe:
    """The recipe of link `number`, counted from 1; raises ConfigError when the chain has no such link."""
    if not 1 <= number <= len(link_names(recipe)):
        raise ConfigError(f"--link {number}: the chain has links 1 to {len(link_names(recipe))}")
    return plan_links(recipe)[number - 1]


def link_complete(recipe: Recipe, number: int) -> bool:
    """Whether one link is finished and made from what the recipe says now."""
    return _finished(link(recipe, number))


def chain_complete(recipe: Recipe) -> bool:
    """Whether every link is finished and made from what the recipe says now."""
    return all(_finished(link) for link in plan_links(recipe))


def run_chain(recipe: Recipe) -> list[Output]:
    """Run every link to completion, each resuming where it stopped. Every rank calls it."""
    from pipeline.teacher.cache import cache_teacher
    from pipeline.training import distributed
    from pipeline.training.distill import distill
    from pipeline.training.partitioned import teacher_loader

    check_targets(recipe.distill, recipe.cache)
    distributed.setup()
    outputs = []
    for link in plan_links(recipe):
        if needs_cache(link.distill) and not _finished(link):
            for taught in (link, lineage.original_recipe(link)):
                if taught is not None:
                    cache_teacher(
                        taught,
                        distributed.rank(),
                        distributed.world_size(),
                        loader=teacher_loader(taught),
                    )
                    distributed.barrier()
        outputs.append(distill(link, _output(link), label=f"distill {link.distill.name}"))
    return outputs


def run_link(recipe: Recipe, number: int) -> Output:
    """Distil link `number` from the cache that is there already. Every rank calls it."""
    from pipeline.training.distill import distill

    check_targets(recipe.distill, recipe.cache)
    chosen = link(recipe, number)
    return distill(chosen, _output(chosen), label=f"distill {chosen.distill.name}")


def _students(recipe: Recipe, shapes: list[Shape]) -> list[Student]:
    """What a recipe would say of each link's result alone."""
    own: list[Any] = [None] * len(shapes)
    if not isinstance(recipe.interpolated.assistants, (int, str)):
        own[:-1] = [assistant.init for assistant in recipe.interpolated.assistants]
    students = []
    for index, (shape, init) in enumerate(zip(shapes, own, strict=True)):
        default = recipe.student.init
        if (
            init is None
            and isinstance(default, Init)
            and isinstance(default.blocks, BlockList)
            and index < len(own) - 1
        ):
            raise ConfigError(
                "student.init.blocks lists blocks, and each link has a teacher of its own: list interpolated.assistants too, each "
                "with its init, or set student.init.blocks=uniform"
            )
        size = asdict(shape) | {"scale": None, "params": None}
        students.append(
            recipe.student.model_copy(update=size | {"init": default if init is None else init})
        )
    return students


def _check(recipe: Recipe, shapes: list[Shape], students: list[Student]) -> None:
    """Raise ConfigError, before the first link is begun, for a link whose objective or first weights its shapes do not allow."""
    from pipeline.objectives import presets
    from pipeline.student.initial import check_init
    from pipeline.training.distiller import check_objective

    compares = presets.needs_teacher(part_weights(recipe.distill.objective))
    for (teacher, student), made in zip(itertools.pairwise(shapes), students, strict=True):
        if made.from_teacher is not None:
            check_init(made.from_teacher, student, teacher)
        if compares:
            for shape in (
                {teacher, shapes[0]} if recipe.interpolated.original_weight != 0.0 else {teacher}
            ):
                check_objective(recipe.distill.objective, student, _seen(recipe, shape))


def _seen(recipe: Recipe, teacher: Shape) -> Shape:
    """What an objective can look at of such a teacher: all of it, or what is after its cache's cut."""
    from pipeline.teacher.capture import resolve_cut

    first = resolve_cut(recipe.cache.encoder_cut, teacher.encoder_layers, "encoder_cut")
    second = resolve_cut(recipe.cache.decoder_cut, teacher.decoder_layers, "decoder_cut")
    if recipe.distill.targets == "online":
        first = second = 0
    return replace(
        teacher,
        encoder_layers=teacher.encoder_layers - first,
        decoder_layers=teacher.decoder_layers - second,
    )


def _finished(link: Recipe) -> bool:
    # Asked in this order: what a link is made from can be told only once the link before it is there.
    return (_link_root(link, link.distill.name) / "manifest.json").exists() and _output(
        link
    ).complete()


def _output(link: Recipe) -> Output:
    return lineage.distill_output(
        link, needs_cache=needs_cache(link.distill), stage="distill_interpolated"
    )


def _link_root(recipe: Recipe, name: str) -> Path:
    return recipe.root / "distill_interpolated" / name


def link_steps(recipe: Recipe, links: int) -> list[int]:
    """How many of `distill.max_steps` each of so many links takes, teacher side first."""
    shares = recipe.interpolated.step_shares or [1.0] * links
    if len(shares) != links:
        raise ConfigError(
            f"interpolated.step_shares has {len(shares)} entries for {links} links: give one for each assistant and one more"
        )
    total, steps = sum(shares), recipe.distill.max_steps
    taken = [max(1, round(steps * share / total)) for share in shares]
    taken[-1] = max(1, steps - sum(taken[:-1]))
    return taken
