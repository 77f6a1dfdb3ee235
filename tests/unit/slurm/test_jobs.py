"""The plan's order, and its lines."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.slurm.job_plan import plan_lines
from pipeline.slurm.jobs import STAGES, Job, Plan


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
