"""Two real gloo ranks under ZeRO-3 train what one rank trains."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.artifacts import Artifact
from tests.tiny_run import REPOSITORY, TinyRun

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copied_run(
    finished_run: TinyRun, few_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("ranks"), few_documents)
    for name in ("tokens", "distill/teacher"):
        shutil.copytree(finished_run.run / name, run.run / name)
    return run


def _two_ranks(run: TinyRun, stage: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    ranks = run.ranks(2, stage, *overrides)
    out, err = ranks.communicate()
    return subprocess.CompletedProcess(run.command(stage, *overrides), ranks.poll(), out, err)


def _losses(run: TinyRun) -> dict[int, float]:
    lines = [
        json.loads(line)
        for line in (run.run / "distill/student/metrics.jsonl").read_text().splitlines()
    ]
    return {line["step"]: line["loss/loss"] for line in lines if "loss/loss" in line}


def test_two_processes_cache_the_same_bytes_as_one(
    finished_run: TinyRun, copied_run: TinyRun
) -> None:
    done = _two_ranks(copied_run, "cache_teacher")
    assert done.returncode == 0, done.stderr
    assert copied_run.hashes("cache_teacher") == finished_run.hashes("cache_teacher")


def test_two_ranks_follow_the_loss_curve_of_one(finished_run: TinyRun, copied_run: TinyRun) -> None:
    if not (copied_run.run / "teacher_cache/teacher/manifest.json").exists():
        shutil.copytree(
            finished_run.run / "teacher_cache", copied_run.run / "teacher_cache", dirs_exist_ok=True
        )
    done = _two_ranks(copied_run, "distill")
    assert done.returncode == 0, done.stderr
    one, two = _losses(finished_run), _losses(copied_run)
    assert list(one) == list(two) == [2, 4, 6, 8, 10, 12]
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, rel=0.02), f"step {step}"
    weights = Artifact(copied_run.run / "distill/student").root / "hf" / "model.safetensors"
    assert (
        weights.stat().st_size
        == (finished_run.run / "distill/student/hf/model.safetensors").stat().st_size
    )


@pytest.mark.parametrize(
    ("ranks", "rates"),
    [((2, 1), ()), ((1, 2), ("distill.scale_parameter=true", "distill.learning_rate=0.02"))],
    ids=["2 to 1", "1 to 2, scaled rates"],
)
def test_another_number_of_ranks_continues_the_curve(
    finished_run: TinyRun,
    few_documents: Path,
    tmp_path: Path,
    ranks: tuple[int, int],
    rates: tuple[str, ...],
) -> None:
    run = TinyRun(tmp_path, few_documents)
    for name in ("tokens", "distill/teacher", "teacher_cache"):
        shutil.copytree(finished_run.run / name, run.run / name)
    settings = ("distill.save_every=6", "distill.log_every=2", *rates)
    first, second = (
        (lambda *o: _two_ranks(run, "distill", *o))
        if n == 2
        else (lambda *o: run.stage("distill", *o))
        for n in ranks
    )
    done = first(*settings)
    assert done.returncode == 0, done.stderr
    whole = _losses(run)
    student = run.run / "distill/student"
    # As if it had been killed between its two checkpoints.
    shutil.rmtree(student / "checkpoints/step-00000012")
    shutil.rmtree(student / "hf")
    (student / "manifest.json").unlink()
    done = second(*settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "saved by a different number of ranks: converting it" in done.stdout
    assert "resuming after step 6" in done.stdout
    continued = _losses(run)
    assert list(continued) == list(whole)
    for step, loss in whole.items():
        assert continued[step] == pytest.approx(loss, rel=0.005), f"step {step}"
    assert sorted(path.name for path in (student / "checkpoints").glob("*step-*")) == [
        "step-00000006",
        "step-00000012",
    ]


def test_a_teacher_partitioned_over_two_ranks_caches_the_same_bytes(
    finished_run: TinyRun, few_documents: Path, tmp_path: Path
) -> None:
    run = TinyRun(tmp_path, few_documents)
    for name in ("tokens", "distill/teacher", "teacher_cache"):
        shutil.copytree(finished_run.run / name, run.run / name)
    cache = run.run / "teacher_cache/teacher"
    # Three shards for one rank and one for the other, which has to take part to the end.
    for index in (0, 1, 2, 4):
        (cache / f"shards/{index:05d}.json").unlink()
    shutil.rmtree(cache / "tail")
    (cache / "manifest.json").unlink()
    partitioned = f"teacher.deepspeed={REPOSITORY / 'ds_configs/zero3_inference.json'}"
    done = _two_ranks(run, "cache_teacher", partitioned)
    assert done.returncode == 0, done.stderr
    assert run.hashes("cache_teacher") == finished_run.hashes("cache_teacher")


def test_a_partitioned_teacher_beside_a_partitioned_student(
    finished_run: TinyRun, copied_run: TinyRun
) -> None:
    partitioned = f"teacher.deepspeed={REPOSITORY / 'ds_configs/zero3_inference.json'}"
    settings = (
        "distill.name=online",
        "distill.targets=online",
        "distill.max_steps=4",
        "distill.log_every=2",
    )
    done = _two_ranks(copied_run, "distill", partitioned, *settings)
    assert done.returncode == 0, done.stderr
    lines = (copied_run.run / "distill/online/metrics.jsonl").read_text().splitlines()
    online = {line["step"]: line for line in map(json.loads, lines) if "loss/loss" in line}
    lines = (finished_run.run / "distill/student/metrics.jsonl").read_text().splitlines()
    cached = {line["step"]: line for line in map(json.loads, lines) if "loss/loss" in line}
    for part in ("lm", "logits", "decoder_relations", "cross_relations"):
        assert online[2][f"loss/{part}"] == pytest.approx(cached[2][f"loss/{part}"], rel=0.02)


def test_fine_tuning_under_zero_2_goes_on_with_another_number_of_ranks(
    finished_run: TinyRun, few_documents: Path, tmp_path: Path
) -> None:
    run = TinyRun(tmp_path, few_documents)
    shutil.copytree(finished_run.run / "distill/student", run.run / "distill/student")
    unit = run.run / "finetune/comparison/topic/student/seed-0"
    ranks = run.ranks(2, "finetune")
    while not (unit / "checkpoints/step-00000006/complete.json").exists():
        assert ranks.poll() is None, ranks.communicate()
        time.sleep(0.005)
    ranks.kill()
    done = run.stage("finetune")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "converting it" in done.stdout
    assert "resuming after step 6" in done.stdout
