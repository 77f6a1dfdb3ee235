"""A recipe resolved into jobs: nothing is opened early, and a student waits for its teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import Output
from pipeline.downstream.comparison import Comparison, resolve
from pipeline.errors import ConfigError, IncompleteArtifact
from pipeline.recipe import Recipe
from tests.tiny_t5 import save_tiny_t5

TASK = {
    "name": "topic",
    "kind": "classification",
    "source": "{text}",
    "target": "{label}",
}


def comparison(root: Path, model: str, **settings: Any) -> Comparison:
    rows = root / "rows.jsonl"
    rows.write_text('{"text": "a", "label": "b"}\n')
    task = TASK | {"train": str(rows), "test": str(rows)}
    models = {"gold": model, "texts": {"model": model, "data": "distilled"}}
    finetune = {
        "models": models,
        "teacher": "gold",
        "tasks": [task],
        "baselines": ["tfidf", "lead"],
    }
    return resolve(Recipe(run=str(root / "run"), finetune=finetune | settings))


def finish(output: Output, validation: float) -> None:
    output.begin()
    record = {"validation": {"accuracy": validation}}
    (output.root / "metrics.json").write_text(json.dumps(record))
    output.finish(files=["metrics.json"])


def test_every_job_is_named_before_any_model_is_there(tmp_path: Path) -> None:
    found = comparison(tmp_path, "nowhere/at/all", seeds=[3, 4], learning_rates=[0.1, 0.2])
    trials = [f"seed-{seed}.rate-{rate}" for rate in (0.1, 0.2) for seed in (3, 4)]
    assert [str(job) for job in found.jobs] == [
        f"topic/{model}/{trial}" for model in ("gold", "texts") for trial in trials
    ]
    assert [str(job) for job in found.baselines] == ["topic/tfidf/baseline"], "lead writes texts"
    with pytest.raises(ConfigError, match="no such directory"):
        found.jobs[0].complete()


def test_a_selection_holds_the_named_jobs_alone(tmp_path: Path) -> None:
    whole = comparison(tmp_path, "nowhere/at/all", seeds=[3, 4])
    assert [str(job) for job in whole.select(["texts"], None, ["seed-4"]).jobs] == [
        "topic/texts/seed-4"
    ]
    assert not whole.select(["lead"]).baselines
    assert [job.name for job in whole.select(trials=["baseline"]).baselines] == ["tfidf"]
    for names, message in (
        ({"models": ["big"]}, "has no model 'big'; it has gold, texts, tfidf, lead"),
        ({"tasks": ["tropic"]}, "has no task 'tropic'; it has topic"),
        ({"trials": ["seed-9"]}, "has no trial 'seed-9'; it has baseline, seed-3, seed-4"),
    ):
        with pytest.raises(ConfigError, match=message):
            whole.select(**names)


def test_a_student_waits_for_its_teacher_and_knows_it_by_its_fingerprint(tmp_path: Path) -> None:
    model = str(save_tiny_t5(tmp_path / "small", ["some words of a text"] * 50))
    found = comparison(tmp_path, model, learning_rates=[0.1, 0.2])
    first, second, student, _ = found.jobs
    assert not student.complete()
    with pytest.raises(IncompleteArtifact, match=r"the teacher topic/gold/seed-0.rate-0.1 is not"):
        _ = student.output
    finish(first.output, 0.5)
    finish(second.output, 0.75)
    taught = student.output.payload["taught"]
    teacher = found.teacher_of("topic")
    assert teacher.chosen is second
    assert teacher.labelled.payload["teacher"] == second.output.fingerprint
    assert taught == {"data": "distilled", "distilled": teacher.labelled.fingerprint}
