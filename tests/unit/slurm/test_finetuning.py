"""Jobs of a comparison and what each waits for."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.recipe import load_recipe
from pipeline.slurm.finetuning import add_finetuning
from pipeline.slurm.jobs import Plan


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
