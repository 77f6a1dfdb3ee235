"""The links of a recipe's chain, and what is refused before the chain begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.distillation.links import link_names, resolve_links
from pipeline.errors import ConfigError
from pipeline.families import Shape
from pipeline.families.t5 import T5
from pipeline.models.architecture import Architecture
from pipeline.recipe import Init, Recipe, load_recipe
from pipeline.slurm.job_plan import plan_jobs
from pipeline.student.initial import write_initial_student


def links_of(recipe: Recipe) -> list[Recipe]:
    return [link.recipe for link in resolve_links(recipe)]


TEACHER = Shape(encoder_layers=6, decoder_layers=6, d_model=64, d_ff=96, num_heads=4, d_kv=16)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    teacher = Architecture.of(T5().new_config(TEACHER, 128))
    write_initial_student(teacher, None, None, 0, tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("A text.")
    recipe = {
        "run": str(tmp_path / "run"),
        "corpus": {"sources": [str(tmp_path / "text.txt")]},
        "teacher": {"model": str(tmp_path / "teacher")},
        "student": {"encoder_layers": 1, "decoder_layers": 1},
        "distill": {"max_steps": 100, "warmup_steps": 20},
        "interpolated": {"name": "chain"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "recipe.yaml"


def recipe(file: Path, *overrides: str) -> Recipe:
    return load_recipe(file, overrides)


def test_links_follow_from_the_recipe(recipe_file: Path) -> None:
    chain = recipe(
        recipe_file,
        "student.init={blocks: last}",
        "interpolated.assistants=[{encoder_layers: 3, init: {blocks: average}}, "
        "{scale: 0.33, d_model: 64, d_ff: 96, num_heads: 4}]",
        "interpolated.step_shares=[1, 1, 8]",
        "interpolated.original_weight=0.25",
    )
    first, second, last = links_of(chain)
    assert [link.distill.name for link in (first, second, last)] == link_names(chain)
    assert [(link.distill.max_steps, link.distill.warmup_steps) for link in links_of(chain)] == [
        (10, 2),
        (10, 2),
        (80, 16),
    ]
    assert (first.student.encoder_layers, first.student.decoder_layers, first.student.d_model) == (
        3,
        6,
        64,
    )
    assert (second.student.scale, second.student.d_model) == (None, 64), "a shape, resolved once"
    assert (first.student.init, second.student.init) == (
        Init(blocks="average"),
        Init(blocks="last"),
    )
    assert first.distill.original is None
    for link, teacher in ((second, "chain.assistant-1"), (last, "chain.assistant-2")):
        assert link.teacher is not None
        assert link.teacher.name == teacher
        assert link.distill.original is not None
        assert (link.distill.original.teacher, link.distill.original.weight) == (
            chain.teacher,
            0.25,
        )
    automatic = recipe(recipe_file, "interpolated.assistants=auto")
    assert [link.student.encoder_layers for link in links_of(automatic)] == [3, 2, 1], (
        "no two steps from 6 within 2.5:1"
    )
    assert link_names(recipe(recipe_file, "interpolated.assistants=auto", "student.scale=0.5")) == [
        "chain"
    ]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["interpolated.original_weight=0.5", "distill.targets=online"],
            "needs an objective that compares",
        ),
        (
            ["interpolated.original_weight=0.5", "distill.objective.preset=lm"],
            "needs an objective that compares",
        ),
        (
            ["interpolated.assistants=[{encoder_layer: 2}]"],
            r"did you mean interpolated.assistants.0.encoder_layers\?",
        ),
        (
            ["interpolated.assistants=[{encoder_layers: 9}]"],
            "9 blocks cannot be copied from a teacher with 6",
        ),
        (
            ["student.init={blocks: {encoder: [0], decoder: [2]}}"],
            "list interpolated.assistants too",
        ),
        (
            ["student.params=60M", "student.scale=0.5"],
            "student: scale and params both say how large it is",
        ),
        (["student.params=sixty"], "student.params: write a number of parameters as 60M"),
    ],
)
def test_what_a_chain_cannot_do_is_said_before_it_begins(
    recipe_file: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        links_of(recipe(recipe_file, *overrides))


def test_a_link_that_compares_with_the_original_teacher_waits_for_its_cache(
    recipe_file: Path,
) -> None:
    stages = ("tokenize_corpus", "cache_teacher", "distill", "distill_interpolated")
    for weight in (0.0, 0.5):
        plan = plan_jobs(
            recipe(recipe_file, f"interpolated.original_weight={weight}"), stages, {}, cache_tasks=2
        )
        needs = plan.jobs["distill_interpolated/chain"].needs
        assert ("teacher_cache/teacher" in needs) == (weight > 0.0)
        assert {"tokens", "teacher_cache/chain.assistant-1"} <= set(needs)
