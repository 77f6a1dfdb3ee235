"""Recipes are strict, and every mistake is one line that says how to fix it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.recipe import load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text("run: out/x\nteacher: {model: '{run}/distill/t/hf'}\ndistill: {max_steps: 5}\n")
    return path


def test_overrides_and_run_are_put_in(recipe: Path) -> None:
    loaded = load_recipe(recipe, ["distill.max_steps=7", "run=other/", "student.d_model=64"])
    assert loaded.distill.max_steps == 7
    assert loaded.student.d_model == 64
    assert loaded.teacher is not None
    assert loaded.teacher.model == "other/distill/t/hf"


def test_extends_merges_sections(recipe: Path) -> None:
    child = recipe.with_name("child.yaml")
    child.write_text("extends: r.yaml\ndistill: {name: scratch}\nteacher: null\n")
    loaded = load_recipe(child)
    assert (loaded.distill.name, loaded.distill.max_steps, loaded.teacher) == ("scratch", 5, None)
    recipe.write_text("extends: child.yaml\nrun: a\n")
    with pytest.raises(ConfigError, match="circle"):
        load_recipe(child)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distill.max_step=1", r"unknown key distill\.max_step; did you mean distill\.max_steps\?"),
        ("distil={}", r"unknown key distil; did you mean distill\?"),
        ("distill.objective.presett=lm", r"did you mean distill\.objective\.preset\?"),
        ("student.init.block=first", r"did you mean student\.init\.blocks\?"),
        ("finetune.models={a: {model: b, dat: gold}}", r"did you mean finetune\.models\.a\.data\?"),
        ("distill.max_steps=many", r"distill\.max_steps: .*integer"),
        ("distill.max_steps", r"write section\.key=value"),
        ("distill.name=../x", r"may hold letters"),
        ("corpus.sources=[]", r"corpus\.sources"),
    ],
)
def test_a_mistake_names_the_place_and_the_fix(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(recipe, [override])
    assert "\n" not in str(caught.value)


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("run: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_loads(path: Path) -> None:
    assert load_recipe(path).run
