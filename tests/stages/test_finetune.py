"""The real stage on 300 real rows: end to end, killed, under two ranks, with mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.artifacts import Artifact
from tests import forked
from tests.forked import Started
from tests.tiny_t5 import save_tiny_t5

ROOT = Path(__file__).resolve().parents[2]
STAGE = [sys.executable, "stages/finetune.py"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, wiki_jsonl: Path) -> Path:
    """Files train, validation and test.jsonl, 3:1:1, and a tiny model `small`.

    Of every 30th row, since the file is sorted by topic.
    """
    root = tmp_path_factory.mktemp("finetune")
    lines = wiki_jsonl.read_text(encoding="utf-8").splitlines(keepends=True)
    spread = [(line, json.loads(line)) for line in lines[::30]]
    chosen = [
        line for line, row in spread if row["topic"] != "Uncategorized" and row["description"]
    ]
    for part, rows in {
        "train": chosen[::5] + chosen[1::5] + chosen[2::5],
        "validation": chosen[3::5],
        "test": chosen[4::5],
    }.items():
        (root / f"{part}.jsonl").write_text("".join(rows), encoding="utf-8")
    save_tiny_t5(root / "small", [json.loads(line)["extract"] for line in chosen])
    return root


def write_recipe(workspace: Path, run: str, **changes: Any) -> Path:
    parts = {part: str(workspace / f"{part}.jsonl") for part in ("train", "validation", "test")}
    topic = {
        "name": "topic",
        "kind": "classification",
        "source": "topic: {extract}",
        "target": "{topic}",
        **parts,
    }
    summary = {
        "name": "summary",
        "kind": "generation",
        "source": "{extract}",
        "target": "{description}",
        **parts,
    }
    finetune = {
        "models": {"small": str(workspace / "small")},
        "tasks": [
            topic | {"source_length": 64},
            summary | {"source_length": 64, "target_length": 16, "max_steps": 24},
        ],
        "max_steps": 30,
        "batch_size": 16,
        "micro_batch_size": 8,
        "learning_rate": 0.003,
        "warmup_steps": 5,
        "dropout": 0.1,
        "log_every": 5,
        "validate_every": 10,
        "save_every": 10,
    }
    path = workspace / f"{run}.yaml"
    path.write_text(
        yaml.safe_dump({"run": str(workspace / run), "seed": 7, "finetune": finetune | changes})
    )
    return path


def start(recipe: Path, *arguments: str) -> Started:
    return forked.start([*STAGE, "--recipe", str(recipe), *arguments])


def finish(process: Started | forked.Ranks) -> str:
    try:
        out, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, err[-4000:]
    return out


def kill_when(process: Started, ready: Callable[[], bool]) -> None:
    limit = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, "the stage ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def unit(workspace: Path, run: str, task: str) -> Path:
    return workspace / run / "finetune" / "comparison" / task / "small" / "seed-7"


def count_test_rows(workspace: Path) -> int:
    return len((workspace / "test.jsonl").read_text(encoding="utf-8").splitlines())


@pytest.mark.slow
def test_killed_runs_end_in_the_same_hashes_as_one_left_alone(workspace: Path) -> None:
    out = finish(start(write_recipe(workspace, "alone")))
    report = json.loads((workspace / "alone/finetune/comparison/report.json").read_text())
    row = report["models"]["small"]
    assert set(row["scores"]["topic"]) == {"accuracy", "matthews", "macro_f1"}
    assert set(row["scores"]["summary"]) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
    assert row["speed"]["summary"][0]["tokens_per_second"] > 0
    shown = next(line for line in out.splitlines() if line.startswith("| small "))
    assert shown in (workspace / "alone/finetune/comparison/report.md").read_text()
    for task in ("topic", "summary"):
        root = unit(workspace, "alone", task)
        assert len((root / "predictions.jsonl").read_text().splitlines()) == count_test_rows(
            workspace
        )
        assert "speed.json" not in Artifact(root, "finetune").manifest.files
        assert not (root / "checkpoints").exists()
        losses = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
        training = [line["loss/loss"] for line in losses if "loss/loss" in line]
        assert training[-1] < training[0]

    again = forked.run(
        [*STAGE, "--recipe", str(write_recipe(workspace, "alone"))],
        environment=forked.ENVIRONMENT | {"PYTHONPROFILEIMPORTTIME": "1"},
        fresh=True,
    )
    assert "2 of 2 units are finished" in again.stdout
    assert "torch" not in {line.rsplit("|", 1)[-1].strip() for line in again.stderr.splitlines()}

    recipe = write_recipe(workspace, "killed")
    topic, summary = unit(workspace, "killed", "topic"), unit(workspace, "killed", "summary")
    kill_when(start(recipe), (topic / "checkpoints/step-00000010/complete.json").exists)
    assert not (topic / "hf").exists()
    kill_when(start(recipe), (summary / "hf").exists)  # after the export, while it is being scored
    assert not (summary / "manifest.json").exists()
    assert "resuming" not in finish(start(recipe)), "the finished weights were trained again"
    for task in ("topic", "summary"):
        alone, killed = (
            Artifact(unit(workspace, run, task), "finetune").manifest for run in ("alone", "killed")
        )
        assert killed.files == alone.files
        assert killed.content_hash() == alone.content_hash()


@pytest.mark.slow
def test_two_ranks_share_the_work(workspace: Path) -> None:
    recipe = write_recipe(workspace, "ranks", max_steps=10)
    out = finish(forked.Ranks([*STAGE, "--recipe", str(recipe), "--tasks", "topic"], 2))
    assert out.count("| small ") == 1, "rank 0 alone prints the table"
    rows = [
        json.loads(line)
        for line in (unit(workspace, "ranks", "topic") / "predictions.jsonl")
        .read_text()
        .splitlines()
    ]
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert len(rows) == count_test_rows(workspace)
    assert not unit(workspace, "ranks", "summary").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "big"], "has no model 'big'; it has small"),
        (["--tasks", "topics"], "has no task 'topics'; it has topic, summary"),
        (["finetune.max_step=3"], "did you mean finetune.max_steps?"),
        (["finetune.models={small: nowhere/at/all}"], "model nowhere/at/all: no such directory"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(
    workspace: Path, arguments: list[str], message: str
) -> None:
    process = start(write_recipe(workspace, "wrong"), *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (workspace / "wrong").exists()


def test_an_unknown_label_stops_the_stage_before_anything_is_written(workspace: Path) -> None:
    recipe = write_recipe(workspace, "label")
    settings = yaml.safe_load(recipe.read_text())
    settings["finetune"]["tasks"][0]["labels"] = ["Geography", "People"]
    recipe.write_text(yaml.safe_dump(settings))
    process = start(recipe)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "has label" in err
    assert "which is none of Geography, People" in err
    assert not (workspace / "label").exists()
