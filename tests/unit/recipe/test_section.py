"""Each setting decides content, or carries a mark that says why it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.artifacts.fingerprint import fingerprint
from pipeline.distillation.card import recipe_hash
from pipeline.recipe import Cache, Distill, FineTune, Objective, Optimisation, Recipe, Task
from pipeline.recipe.section import Section, mark_of
from pipeline.recipe.student import ModelShape
from pipeline.training.identity import optimisation_payload

SCHEDULE = {"start": 0.5, "end": 0.25, "steps": 3}
TASK = {"train": "a.jsonl", "test": "b.jsonl", "source": "{a}", "target": "{b}"}
#: A recipe with every section in it, and with every setting in use that counts only with others.
FULL = Recipe.model_validate(
    {
        "run": "runs/x",
        "corpus": {"sources": ["a.txt"]},
        "teacher": {"model": "t"},
        "cache": {"kinds": ["states", "sampled", "topk"], "states": {"dtype": "int8"}},
        "student": {"init": {"blocks": {"encoder": [0], "decoder": [0]}}},
        "distill": {
            "dtype": "float16",
            "patience": 3,
            "objective": {"weights": {"logits": SCHEDULE}, "taid": {}},
            "original": {"teacher": {"model": "o"}, "weight": SCHEDULE},
        },
        "interpolated": {"assistants": [{"init": "layers"}]},
        "finetune": {
            "dtype": "float16",
            "patience": 3,
            "models": {"big": "m", "x": "m", "small": {"model": "n", "logits": {}}},
            "teacher": "big",
            "tasks": [
                TASK | {"name": "a", "kind": "classification"},
                TASK | {"name": "b", "kind": "classification", "labels": ["x", "y"]},
                TASK | {"name": "c", "kind": "regression", "values": {"low": 0, "high": 5}},
            ],
        },
    }
)
#: Base classes, which stand in a recipe only as what inherits from them.
SHARED = {Optimisation, ModelShape}


def subclasses(section: type[Section]) -> Iterator[type[Section]]:
    for inner in section.__subclasses__():
        yield from (inner, *subclasses(inner))


def sections(value: Any) -> Iterator[Section]:
    """Yield all sections in a value, at any depth."""
    if isinstance(value, Section):
        yield value
        yield from sections(dict(value))
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from sections(item)


def other_values(value: Any) -> Iterator[Any]:
    """Yield values near `value`, some of which its field may refuse."""
    if isinstance(value, Section):
        for name, field in type(value).model_fields.items():
            if mark_of(field) is None:
                yield from changed(value, name)
    elif isinstance(value, dict) and value:
        key, *_ = value
        yield from (value | {key: item} for item in other_values(value[key]))
    elif isinstance(value, (list, tuple)) and value:
        yield from ([*value[:-1], item] for item in other_values(value[-1]))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield from (value + 1, value - 1, value / 2)
    elif isinstance(value, str):
        yield value + "x"
    yield from (1, -2, 0.5, "x", ["x"], [1], {"x": "y"}, {})


@cache
def allowed_words(kind: type[Section], name: str) -> list[str]:
    shape = kind.model_json_schema()["properties"][name]
    shapes = [shape, shape.get("items", {}), *shape.get("anyOf", [])]
    return [word for shape in shapes for word in shape.get("enum", [])]


def changed(section: Section, name: str) -> Iterator[Section]:
    """Yield copies of a section in which the setting `name` has another value that it allows."""
    values = dict(section)
    words = allowed_words(type(section), name)
    for value in chain(other_values(values[name]), words, ([word] for word in words)):
        try:
            copy = type(section).model_validate(values | {name: value})
        except ValidationError:
            continue
        if getattr(copy, name) != values[name]:
            yield copy


INSTANCES = {
    kind: [it for it in sections(FULL) if type(it) is kind] for kind in subclasses(Section)
}
FIELDS = [(kind, name) for kind in INSTANCES if kind not in SHARED for name in kind.model_fields]


def test_the_full_recipe_has_every_section() -> None:
    assert {kind for kind, instances in INSTANCES.items() if not instances} == SHARED


@pytest.mark.parametrize(
    ("kind", "name"), FIELDS, ids=lambda it: it if isinstance(it, str) else it.__name__
)
def test_a_setting_decides_content_unless_it_is_marked(kind: type[Section], name: str) -> None:
    field = kind.model_fields[name]
    marked = mark_of(field) is not None
    copies = [(old, new) for old in INSTANCES[kind] for new in islice(changed(old, name), 3)]
    assert copies, "the full recipe or other_values allow no change of this setting"
    for old, new in copies:
        assert (name in old.identity()) != marked
        assert (fingerprint(old.identity()) == fingerprint(new.identity())) == marked
    assert field.description, "a docstring below the setting says what it does"


@pytest.mark.parametrize("kind", INSTANCES, ids=lambda it: it.__name__)
def test_a_setting_declared_again_keeps_its_mark(kind: type[Section]) -> None:
    base = kind.__base__
    assert base is not None
    assert kind.__doc__
    for name, field in getattr(base, "model_fields", {}).items():
        assert mark_of(kind.model_fields[name]) == mark_of(field)


@pytest.mark.parametrize("settings", [FULL.distill, FULL.finetune], ids=["distill", "finetune"])
def test_the_fingerprint_of_training_follows_the_marks(settings: Optimisation) -> None:
    before = fingerprint(optimisation_payload(settings))
    for name, field in type(settings).model_fields.items():
        if name == "deepspeed":
            continue
        copy = next(changed(settings, name))
        assert (fingerprint(optimisation_payload(copy)) == before) == (mark_of(field) is not None)


def test_of_deepspeeds_json_the_optimizer_counts(tmp_path: Path) -> None:
    def payload(**config: Any) -> dict[str, Any]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(config))
        return optimisation_payload(Distill(deepspeed=str(path)))

    plain = payload(optimizer={"type": "AdamW"})
    assert payload(optimizer={"type": "AdamW"}, zero_optimization={"stage": 2}) == plain
    assert payload(optimizer={"type": "Lion"}) != plain


def test_when_to_validate_counts_where_validations_decide() -> None:
    def counted(**settings: Any) -> set[str]:
        return set(Distill(**settings).identity()) & {"validate_every", "min_delta"}

    assert counted() == set()
    assert counted(export="best") == {"validate_every"}
    assert counted(patience=2) == {"validate_every", "min_delta"}
    assert "validate_every" in FineTune().identity()


def test_settings_of_kinds_that_are_not_cached_do_not_count() -> None:
    states = Cache(kinds=["states"])
    assert set(states.identity()) == {"kinds", "encoder_cut", "decoder_cut", "states", "batch_size"}
    assert states.identity()["states"] == {"dtype": "auto", "encoder_output": False}
    assert set(Cache(kinds=["topk"]).identity()) == {"kinds", "topk", "batch_size"}
    one, two = Cache(kinds=["topk", "states"]), Cache(kinds=["states", "topk"])
    assert one.identity() == two.identity()


def test_the_recipe_of_a_card_is_known_by_what_makes_the_model() -> None:
    def hash_with(**changes: Any) -> str:
        return recipe_hash(FULL.model_copy(update=changes))

    assert hash_with() == recipe_hash(FULL)
    assert hash_with(run="elsewhere", finetune=FineTune()) == hash_with()
    watched = FULL.distill.model_copy(update={"log_every": 7, "name": "other"})
    assert hash_with(distill=watched) == hash_with()
    compared = FULL.distill.model_copy(update={"objective": Objective(preset="lm")})
    assert hash_with(distill=compared) != hash_with()
    assert hash_with(seed=1) != hash_with()


def test_an_identity_is_plain_json() -> None:
    assert json.loads(json.dumps(FULL.identity())) == FULL.identity()
    task = Task.model_validate(TASK | {"name": "a", "kind": "classification", "labels": {0: "x"}})
    assert task.identity()["labels"] == {"0": "x"}
