"""Shards shared out among array tasks, the plan's order, and its lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.recipe import load_recipe
from pipeline.slurm.finetuning import add_finetuning
from pipeline.slurm.job_plan import plan_lines
from pipeline.slurm.jobs import STAGES, Job, Plan
from pipeline.slurm.shards import split_shards
from pipeline.teacher.caching import chosen_shards


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(1, 20))
def test_every_shard_goes_to_exactly_one_task(shards: set[int], tasks: int) -> None:
    words = split_shards(sorted(shards), tasks)
    assert len(words) == min(tasks, len(shards))
    shares = [chosen_shards(word, 201) for word in words]
    assert sorted(index for share in shares for index in share) == sorted(shards)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(0, 50), st.integers(1, 60))
def test_every_nth_shard_goes_to_exactly_one_task(count: int, tasks: int) -> None:
    shares = [chosen_shards(f"{task}::{tasks}", count) for task in range(tasks)]
    assert sorted(index for share in shares for index in share) == list(range(count))


def test_shards_beyond_the_last_are_left_out() -> None:
    assert chosen_shards("3,7-9", 9) == [3, 7, 8]


@pytest.mark.parametrize("text", ["", "a", "3-", "1::0", "1;2", "-1"])
def test_other_words_for_shards_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shards"):
        chosen_shards(text, 10)


def test_what_is_in_the_queue_is_waited_for_and_what_is_missing_refused() -> None:
    plan = Plan(queued={"tokens": "7"}, stages=("distill",))
    plan.add(Job("tokens", "tokenize_corpus"), lambda: pytest.fail("in the queue: not to be asked"))
    plan.add(
        Job("distill/student", "distill", ("tokens",), arguments=("--link", "a=b\tc ")),
        lambda: pytest.fail("its input is not there: not to be asked"),
    )
    assert list(plan_lines(plan, "runs/r", ["--recipe", "r.yaml"])) == [
        "run=runs/r",
        "queued=tokens",
        "number=7",
        "job=distill/student",
        "stage=distill",
        "resources=distill",
        "need=tokens",
        "argument=--recipe",
        "argument=r.yaml",
        "argument=--link",
        "argument=a=b\tc ",
        "submit=distill/student",
    ]
    with pytest.raises(ConfigError, match="distill needs teacher_cache/t, which is not complete"):
        plan.add(Job("distill/other", "distill", ("teacher_cache/t",)), lambda: False)


def test_what_is_complete_is_neither_made_nor_waited_for() -> None:
    plan = Plan(queued={}, stages=("distill",))
    plan.add(Job("tokens", "tokenize_corpus"), lambda: True)
    plan.add(Job("distill/done", "distill", ("tokens",)), lambda: True)
    plan.add(Job("distill/student", "distill", ("tokens",)), lambda: False)
    assert plan.jobs == {"distill/student": Job("distill/student", "distill")}
    assert list(plan_lines(plan, "runs/r", []))[:2] == ["run=runs/r", "complete=distill/done"]


def test_an_argument_of_two_lines_is_refused() -> None:
    plan = Plan(queued={}, stages=STAGES)
    plan.add(Job("tokens", "tokenize_corpus"), lambda: False)
    with pytest.raises(ConfigError, match="has a line break"):
        list(plan_lines(plan, "runs/r", ["tokens.views=2\nsubmit=x"]))


def test_units_that_learn_from_a_teacher_wait_for_it(tmp_path: Path) -> None:
    from tests.tiny_t5 import save_tiny_t5

    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(f'{{"text": "text {n}", "label": "{"ab"[n % 2]}"}}\n' for n in range(20))
    )
    model = str(
        save_tiny_t5(tmp_path / "model", ["some text of some words"] * 4, layers=1, d_model=8)
    )
    task = {
        "kind": "classification",
        "train": str(rows),
        "test": str(rows),
        "source": "{text}",
        "target": "{label}",
    }
    finetune = {
        "models": {
            "teacher": model,
            "gold": model,
            "taught": {"model": model, "data": "distilled"},
        },
        "teacher": "teacher",
        "tasks": [task | {"name": "one"}, task | {"name": "two", "learning_rate": 0.1}],
        "seeds": [0, 1],
        "learning_rates": [0.01, 0.02],
        "baselines": ["tfidf", "lead"],
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"run": str(tmp_path / "run"), "finetune": finetune}))
    plan = Plan(queued={}, stages=("finetune",))
    add_finetuning(plan, load_recipe(recipe), 2)
    root = "finetune/comparison"
    assert {key: job.needs for key, job in plan.jobs.items()} == {
        root: (),
        "distilled/comparison/one": (root,),
        f"{root}/one": (root, "distilled/comparison/one"),
        "distilled/comparison/two": (root,),
        f"{root}/two": (root, "distilled/comparison/two"),
        f"{root}/report": (root, f"{root}/one", f"{root}/two"),
    }
    own = plan.jobs[root].items
    assert len(own) == 2 * (4 + 2) + 2
    assert {"one/gold/seed-1.rate-0.02", "two/teacher/seed-0", "one/tfidf/baseline"} < set(own)
    assert plan.jobs["distilled/comparison/one"].items == ("0::2", "1::2")
    assert plan.jobs[f"{root}/two"].items == ("taught/seed-0", "taught/seed-1")
