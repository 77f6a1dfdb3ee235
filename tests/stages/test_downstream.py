"""The real stage on files in published schemas: seeds, learning rates, baselines, a teacher."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import pearsonr

from pipeline.artifacts import Artifact
from pipeline.downstream import results
from pipeline.downstream.comparison import resolve
from pipeline.recipe import load_recipe
from tests.published import write_published
from tests.tiny_run import ENVIRONMENT, REPOSITORY
from tests.tiny_t5 import save_tiny_t5

STAGE = "stages/finetune.py"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, wiki_jsonl: Path) -> Path:
    root = tmp_path_factory.mktemp("downstream")
    documents = [
        json.loads(line) for line in wiki_jsonl.read_text(encoding="utf-8").splitlines()[::60]
    ]
    documents = [document for document in documents if document["description"]]
    for task in ("cola", "stsb", "mnli", "cnn_dailymail"):
        for part, rows in {
            "train": documents[::2],
            "test": documents[1::4],
            "more": documents[3::4],
        }.items():
            write_published(task, root / f"{task}-{part}.parquet", rows)
    save_tiny_t5(root / "small", [document["extract"] for document in documents])
    return root


def entry(workspace: Path, task: str, **changes: Any) -> dict[str, Any]:
    files = {part: str(workspace / f"{task}-{part}.parquet") for part in ("train", "test")}
    return (
        {"file": f"tasks/{task}.yaml", "source_length": 32, "target_length": 12} | files | changes
    )


def write_recipe(workspace: Path, name: str, **settings: Any) -> Path:
    finetune = {
        "max_steps": 6,
        "batch_size": 16,
        "micro_batch_size": 8,
        "learning_rate": 0.003,
        "warmup_steps": 2,
        "log_every": 2,
        "validate_every": 2,
        "save_every": 2,
        "shard_rows": 30,
        "models": {"small": str(workspace / "small")},
    }
    path = workspace / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"run": str(workspace / name), "finetune": finetune | settings}))
    return path


def command(recipe: Path, *arguments: str, ranks: int = 1) -> list[str]:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        if ranks > 1
        else []
    )
    return [sys.executable, *launcher, STAGE, "--recipe", str(recipe), *arguments]


def stage(recipe: Path, *arguments: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(recipe, *arguments, ranks=ranks),
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def succeed(recipe: Path, *arguments: str, ranks: int = 1) -> str:
    done = stage(recipe, *arguments, ranks=ranks)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_published_sets_a_sweep_and_baselines(workspace: Path) -> None:
    recipe = write_recipe(
        workspace,
        "published",
        learning_rates=[0.0001, 0.003],
        seeds=[3, 4],
        baselines=["tfidf", "lead"],
        patience=2,
        tasks=[
            entry(workspace, "cola"),
            entry(workspace, "stsb", learning_rate=0.003),
            entry(
                workspace,
                "mnli",
                learning_rate=0.003,
                decoding="generation",
                more_tests={"mismatched": str(workspace / "mnli-more.parquet")},
            ),
            entry(
                workspace,
                "cnn_dailymail",
                learning_rate=0.003,
                validation=str(workspace / "cnn_dailymail-more.parquet"),
                beams=2,
            ),
        ],
    )
    out = succeed(recipe, "--trials", "seed-3,seed-3.rate-0.0001,seed-3.rate-0.003,baseline")
    assert "0 of 9 units are finished" in out
    out = succeed(recipe, "--tasks", "cola")
    assert "3 of 5 units are finished" in out, "units made by --trials must not be made again"
    comparison = resolve(load_recipe(recipe))
    found = results.chosen(comparison)
    assert {task: set(models) for task, models in found.items()} == {
        "cola": {"small", "tfidf"},
        "stsb": {"small", "tfidf"},
        "mnli": {"small", "tfidf"},
        "cnn_dailymail": {"small", "lead"},
    }
    small = found["cola"]["small"]
    assert [unit.seed for unit in small.units] == [3, 4]
    swept = [
        unit
        for unit in results.read_units(comparison)
        if (unit.task, unit.model) == ("cola", "small")
    ]
    assert len(swept) == 4
    sums = {
        rate: sum(u.validation["matthews"] for u in swept if u.learning_rate == rate)
        for rate in (0.0001, 0.003)
    }
    assert sums[small.learning_rate or 0] == max(sums.values())
    assert small.deviation["accuracy"] is not None
    for models in found.values():
        for scored in models.values():
            for metric, (low, high) in scored.interval.items():
                assert low <= scored.mean[metric] <= high
    assert set(found["mnli"]["small"].mean) == {"accuracy", "mismatched/accuracy"}
    generated = found["mnli"]["small"].units[0]
    texts = generated.predictions().predictions
    assert generated.stray == sum(
        text not in ("entailment", "neutral", "contradiction") for text in texts
    )
    assert (
        found["cnn_dailymail"]["lead"].mean["rouge1"]
        > found["cnn_dailymail"]["small"].mean["rouge1"]
    )
    apart = results.compare(
        found["cnn_dailymail"]["lead"], found["cnn_dailymail"]["small"], "rouge1"
    )
    assert apart.p_value < 0.05
    assert apart.low > 0
    cut = (
        workspace / "published/finetune/comparison/cnn_dailymail/small/seed-3/metrics.json"
    ).read_text()
    assert json.loads(cut)["cut"]["targets"] > 0
    # The stored rows alone give the scores in the files again.
    rows = generated.predictions()
    hits = [
        prediction == reference
        for prediction, reference in zip(rows.predictions, rows.references, strict=True)
    ]
    assert sum(hits) / len(hits) == pytest.approx(generated.scores["accuracy"], abs=1e-9)
    stsb = found["stsb"]["small"].units[0]
    rows = stsb.predictions()
    predictions, references = (
        [float(text) for text in side] for side in (rows.predictions, rows.references)
    )
    # After six steps a model may give every row the same number: no correlation is defined then,
    # and 0 is reported.
    correlated = pearsonr(predictions, references).statistic if len(set(predictions)) > 1 else 0.0
    assert correlated == pytest.approx(stsb.scores["pearson"], abs=1e-9)


def taught(workspace: Path, name: str) -> Path:
    small = str(workspace / "small")
    return write_recipe(
        workspace,
        name,
        models={
            "small": small,
            "texts": {"model": small, "data": "distilled"},
            "logits": {"model": small, "data": "both", "logits": {"weight": 0.7}},
        },
        teacher="small",
        tasks=[
            entry(
                workspace, "cnn_dailymail", validation=str(workspace / "cnn_dailymail-more.parquet")
            )
        ],
        baselines=["lead"],
    )


@pytest.mark.slow
def test_a_student_learns_from_the_fine_tuned_teacher_and_a_kill_changes_nothing(
    workspace: Path,
) -> None:
    alone, killed = taught(workspace, "alone"), taught(workspace, "killed")
    succeed(alone)
    rows = Artifact(workspace / "alone/distilled/comparison/cnn_dailymail", "distilled")
    total = sum(shard.rows for shard in rows.shards)
    assert len(rows.shards) == -(-total // 30) > 1
    said = [
        text
        for index in range(len(rows.shards))
        for text in rows.ragged_rows(index, range(1), "target")
    ]
    assert all(isinstance(text, bytes) for text in said)
    found = results.chosen(resolve(load_recipe(alone)))["cnn_dailymail"]
    units = {name: scored.units[0] for name, scored in found.items()}
    assert {name: (unit.data, unit.teacher) for name, unit in units.items()} == {
        "small": ("gold", None),
        "texts": ("distilled", "small"),
        "logits": ("both", "small"),
        "lead": ("gold", None),
    }
    assert (
        units["logits"].rows["train"] == units["small"].rows["train"] + units["texts"].rows["train"]
    )
    curve = (
        workspace / "alone/finetune/comparison/cnn_dailymail/logits/seed-0/metrics.jsonl"
    ).read_text()
    parts = [json.loads(line) for line in curve.splitlines() if "loss/logits" in line]
    assert parts[0]["loss/loss"] == pytest.approx(
        0.3 * parts[0]["loss/lm"] + 0.7 * parts[0]["loss/logits"], rel=1e-4
    )

    run = workspace / "killed"
    for moment in (
        "distilled/comparison/cnn_dailymail/shards/00000.json",
        "finetune/comparison/cnn_dailymail/logits/seed-0/checkpoints/step-00000004/complete.json",
    ):
        process = subprocess.Popen(
            command(killed),
            cwd=REPOSITORY,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 200
        while not (run / moment).exists():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    succeed(killed)
    for path in sorted((workspace / "alone").glob("*/comparison/**/manifest.json")):
        one, other = (
            Artifact(path.parent),
            Artifact(run / path.parent.relative_to(workspace / "alone")),
        )
        assert one.manifest.content_hash() == other.manifest.content_hash(), path

    # Another teacher: the student's units are not those of this recipe any more, and none is
    # overwritten.
    changed = stage(alone, "finetune.learning_rate=0.001")
    assert changed.returncode == 2
    assert "was made from something else" in changed.stderr


@pytest.mark.slow
def test_partitioned_weights_on_two_ranks_generate_and_validate(workspace: Path) -> None:
    recipe = taught(workspace, "ranks")
    config = json.loads((REPOSITORY / "ds_configs/zero3_cpu.json").read_text())
    # By default small weights are kept whole.
    config["zero_optimization"] |= {
        f"stage3_{what}_persistence_threshold": 0 for what in ("param", "model")
    }
    (workspace / "zero3.json").write_text(json.dumps(config))
    partitioned = f"finetune.deepspeed={workspace / 'zero3.json'}"
    succeed(recipe, partitioned, "--models", "small,texts", ranks=2)
    found = results.chosen(resolve(load_recipe(recipe, [partitioned])))["cnn_dailymail"]
    assert set(found) == {"small", "texts"}
    assert found["texts"].units[0].predictions().rows == list(
        range(found["texts"].units[0].rows["test"])
    )


def test_a_request_that_cannot_work_is_one_line_and_leaves_nothing(workspace: Path) -> None:
    for name, arguments, message in (
        (
            "student alone",
            ["--models", "texts"],
            "learns from small, which is not fine-tuned: name it in --models, too",
        ),
        ("no such trial", ["--trials", "seed-9"], "has no trial 'seed-9'; it has baseline, seed-0"),
        (
            "no teacher",
            ["finetune.teacher=null"],
            "needs finetune.teacher: the one of finetune.models to learn from",
        ),
        (
            "nothing to label with",
            ["--distil", "cnn_dailymail"],
            "the teacher cnn_dailymail/small/seed-0 is not fine-tuned yet",
        ),
    ):
        done = stage(taught(workspace, "wrong"), *arguments)
        assert done.returncode == 2, name
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not (workspace / "wrong").exists()


def test_odd_rows_are_reported(workspace: Path, tmp_path: Path) -> None:
    rows = [{"text": f"A text of number {n}.", "label": "ab"[n % 2]} for n in range(30)]
    rows += [{"text": "", "label": "a"}, rows[0], rows[1]]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"text": "a text  of number 3.", "label": "b"}) + "\n"
    )
    task = {
        "name": "odd",
        "kind": "classification",
        "source": "{text}",
        "target": "{label}",
        "train": str(tmp_path / "train.jsonl"),
        "test": str(tmp_path / "test.jsonl"),
        "validation": str(tmp_path / "train.jsonl"),
    }
    recipe = write_recipe(workspace, "odd", tasks=[task], models={}, baselines=["tfidf"])
    out = succeed(recipe)
    assert "train.jsonl: 1 empty, 0 dropped" in out
    assert "2 training rows of" in out
    assert "1 of 1 test rows are also among the training rows" in out
    (result,) = results.read_units(resolve(load_recipe(recipe)))
    assert (result.overlap["train_test"], result.skipped["train"]) == (
        1,
        {"empty": 1, "dropped": 0, "duplicated": 2},
    )
    shutil.rmtree(workspace / "odd")
