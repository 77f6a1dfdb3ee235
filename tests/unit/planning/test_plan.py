"""Plans: the recommendation, results that do not fit, and the recipes of the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.layout import Run
from pipeline.planning.advice import advise
from pipeline.planning.assumptions import PlanAssumptions
from pipeline.planning.chain import plan_chain
from pipeline.planning.corpus_rows import rows_of
from pipeline.planning.estimate import LinkEstimate, estimates
from pipeline.planning.figures import as_json
from pipeline.planning.plan import make_plan
from pipeline.planning.plan_table import lines
from pipeline.planning.settings import PlannedSettings
from pipeline.recipe import load_recipe

#: Recipes that make a teacher of their own need it first.
CLUSTER = [
    path
    for path in sorted(Path("recipes").glob("*.yaml"))
    if not path.stem.startswith(("demo", "base"))
]


def recipe_in(directory: Path, **more: Any) -> Path:
    path = directory / "recipe.yaml"
    recipe = {
        "run": str(directory / "run"),
        "teacher": {"model": "google/t5-v1_1-small"},
        "tokens": {"input_length": 128},
        "student": {"encoder_layers": 2, "decoder_layers": 2},
        "distill": {"max_steps": 1000, "batch_size": 64, "micro_batch_size": 4},
    }
    path.write_text(json.dumps(recipe | more))
    return path


def test_the_recommendation_follows_the_disk_and_the_objective(tmp_path: Path) -> None:
    path = recipe_in(tmp_path)

    def link(room: float, *overrides: str) -> LinkEstimate:
        recipe = load_recipe(path, overrides)
        assumed = PlanAssumptions.of("h100", gpus=2, mfu=0.4, disk=room)
        rows = rows_of(Run(recipe.root), recipe.tokens, 1e8)
        return estimates(PlannedSettings.of(recipe), plan_chain(recipe), rows, assumed)[0]

    caches = link(1e15).caches
    states, int8 = caches["states"].bytes, caches["states int8"].bytes
    assert advise(link(states)).kind == "states"
    assert advise(link(states - 1)).kind == "states int8"
    # Relations need states; sampled targets serve logits.
    assert advise(link(int8 - 1)).kind == "online"
    assert advise(link(int8 - 1, "distill.objective.preset=logits")).kind == "sampled"
    assert advise(link(0.0, "distill.objective.preset=lm")).kind == "none"


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    path = str(recipe_in(tmp_path))
    overrides = ["distill.micro_batch_size=2048", "distill.batch_size=2048"]
    plan = make_plan(path, overrides, gpus=3, gpu="l4", tokens="1B", room="1G")
    misfits = " ".join(plan.links[0].does_not_fit)
    assert "not a multiple of micro_batch_size 2048 × 3" in misfits
    assert "is more than 90% of an l4's 24 GB" in misfits
    assert "the cache as the recipe has it takes" in misfits
    with pytest.raises(ConfigError, match="how large is the corpus"):
        make_plan(path)
    with pytest.raises(ConfigError, match="--tokens many"):
        make_plan(path, tokens="many")
    with pytest.raises(ConfigError, match="--gpu tpu: known are"):
        make_plan(path, tokens="1B", gpu="tpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cpu_is_planned_in_either_dtype(dtype: str, tmp_path: Path) -> None:
    # In float32 the head's gradients are made in the forward pass.
    overrides = [f"distill.dtype={dtype}"]
    plan = make_plan(str(recipe_in(tmp_path)), overrides, gpus=1, gpu="cpu", tokens="1B", room="1T")
    (link,) = plan.links
    assert link.memory.peak > 16 * link.student.parameters
    (entry,) = as_json(plan)["links"]
    assert list(entry["memory"])[-1] == "peak"
    assert entry["memory"]["peak"] == link.memory.peak


@pytest.mark.slow
@pytest.mark.parametrize("path", CLUSTER, ids=lambda path: path.stem)
def test_every_cluster_recipe_is_planned_and_fits(path: Path) -> None:
    plan = make_plan(str(path), gpus=32, gpu="a100-80", tokens="3B", room="100T")
    assert plan.teacher is not None
    for link in plan.links:
        assert link.does_not_fit == [], link.key
        assert link.memory.peak > link.memory_with_checkpointing.peak > 1e9
        assert 0 < link.student.parameters < plan.teacher.parameters
    assert all(len(line) <= 100 for line in lines(plan))
