"""Every kind of target through the real stages: cached in one pass, the same bytes however it is
made, learned from, checked."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipeline.artifacts import Artifact, Output
from pipeline.artifacts.manifest import shard_path, sidecar_path
from tests import forked
from tests.tiny_run import ENVIRONMENT, REPOSITORY, TinyRun

pytestmark = pytest.mark.slow

_ALL = (
    "cache={kinds: [states, sampled, topk], batch_size: 16, "
    "states: {dtype: int8, group_size: 16, outliers: 2, encoder_output: true}, "
    "topk: {k: 8}, sampled: {draws: 20}}"
)


@pytest.fixture(scope="module")
def run(
    finished_run: TinyRun, few_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyRun:
    """A run whose cache holds every kind."""
    run = TinyRun(tmp_path_factory.mktemp("kinds"), few_documents)
    for name in ("tokens", "distill/teacher"):
        shutil.copytree(finished_run.run / name, run.run / name)
    done = run.stage("cache_teacher", _ALL)
    assert done.returncode == 0, done.stderr
    return run


def _miniend(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def _losses(run: TinyRun, name: str, *overrides: str) -> list[float]:
    done = run.stage("distill", f"distill.name={name}", "distill.log_every=1", _ALL, *overrides)
    assert done.returncode == 0, done.stderr
    lines = (run.run / "distill" / name / "metrics.jsonl").read_text().splitlines()
    return [
        record["loss/logits"] for line in lines if "loss/logits" in (record := json.loads(line))
    ]


def test_a_student_learns_from_each_kind(run: TinyRun) -> None:
    losses = {}
    for kind in ("states", "sampled", "topk"):
        losses[kind] = _losses(
            run, kind, "distill.objective.preset=logits", f"distill.targets={kind}"
        )
        assert losses[kind][-1] < losses[kind][0]
    # The same batch before the first update: all three estimate the same divergence, up to what
    # each leaves out.
    assert losses["topk"][0] <= losses["states"][0] * 1.01
    reversed_kl = _losses(
        run,
        "reverse",
        "distill.objective={preset: logits, divergence: reverse_kl}",
        "distill.targets=topk",
    )
    assert reversed_kl[-1] < reversed_kl[0]


def test_states_serve_the_whole_objective_from_int8(run: TinyRun, finished_run: TinyRun) -> None:
    done = run.stage("distill", _ALL)
    assert done.returncode == 0, done.stderr
    ours, exact = (
        json.loads((r.run / "distill/student/summary.json").read_text())["validation"]["lm_loss"]
        for r in (run, finished_run)
    )
    assert ours == pytest.approx(exact, rel=0.01)


def test_two_processes_and_a_rebuilt_shard_give_the_same_bytes(
    run: TinyRun, tmp_path: Path
) -> None:
    root = run.run / "teacher_cache/teacher"
    before = Artifact(root).manifest.content_hash()
    sidecar_path(root, 1).unlink()
    shard_path(root, 3).unlink()
    for rank in (0, 1):
        environment = ENVIRONMENT | {"RANK": str(rank), "WORLD_SIZE": "2"}
        done = forked.run(run.command("cache_teacher", _ALL), environment)
        assert done.returncode == 0, done.stderr
    assert Artifact(root).manifest.content_hash() == before


def test_inspect_and_verify_say_what_is_there(run: TinyRun) -> None:
    root = run.run / "teacher_cache/teacher"
    shown = _miniend("inspect", str(root)).stdout
    for words in (
        "column sampled: bytes",
        "column encoder_states: int8 × [64, 32]",
        "replayed logits: KL",
        "unique ids",
    ):
        assert words in shown
    done = _miniend("verify", str(root), "--replay-all")
    assert done.returncode == 0, done.stderr
    assert "shards replayed" in done.stdout


@pytest.mark.parametrize("column", ["decoder_states", "sampled", "topk_ids"])
def test_targets_that_are_one_row_off_are_caught(
    run: TinyRun, few_documents: Path, tmp_path: Path, column: str
) -> None:
    shifted = TinyRun(tmp_path, few_documents)
    shutil.copytree(
        run.run, shifted.run, ignore=shutil.ignore_patterns("student", "states", "topk", "sampled")
    )
    root = shifted.run / "teacher_cache/teacher"
    _shift(root, column)
    done = _miniend("verify", str(root))
    assert done.returncode == 2
    assert "does not belong to the labels" in done.stdout
    kind = {"decoder_states": "states", "sampled": "sampled", "topk_ids": "topk"}[column]
    trained = shifted.stage(
        "distill", _ALL, "distill.objective.preset=logits", f"distill.targets={kind}"
    )
    assert trained.returncode == 2
    assert "does not belong to the labels" in trained.stderr


def _shift(root: Path, column: str) -> None:
    """Rewrite shard 0 with the rows of one target moved by one, as a faulty writer would: all
    hashes and records fit."""
    artifact = Artifact(root)
    record = artifact.shards[0]
    rows = list(range(record.rows))
    columns = {}
    for name, about in record.columns.items():
        if about.ragged:
            columns[name] = artifact.ragged_rows(0, rows, name)
        else:
            columns[name] = artifact.rows(0, slice(0, record.rows), (name,))[name].clone()
    for name in columns:
        if name.split(".")[0] == column or (column == "topk_ids" and name.startswith("topk")):
            order = [*rows[1:], rows[0]]
            columns[name] = (
                columns[name][order]
                if not isinstance(columns[name], list)
                else [columns[name][i] for i in order]
            )
    manifest = artifact.manifest
    output = Output(
        root, "teacher_cache", manifest.payload, (root / "recipe.yaml").read_text(), manifest.inputs
    )
    output.write_shard(0, columns, tokens=record.tokens, notes=record.notes)
    assert output.finish(len(manifest.shards), manifest.files)


def test_a_disk_that_fills_up_loses_nothing(
    finished_run: TinyRun, few_documents: Path, tmp_path: Path, small_disk: Path
) -> None:
    run = TinyRun(tmp_path / "full", few_documents)
    for name in ("tokens", "distill/teacher"):
        shutil.copytree(finished_run.run / name, run.run / name)
    (run.run / "teacher_cache").symlink_to(small_disk, target_is_directory=True)
    root = run.run / "teacher_cache/teacher"
    need = sum(
        path.stat().st_size
        for path in (finished_run.run / "teacher_cache/teacher/shards").iterdir()
    )
    assert need > 0
    size = 3 * need // 4096 * 4096
    subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)
    ballast = small_disk / "ballast"
    # Too small from the start: told before the first byte.
    ballast.write_bytes(b"x" * (size - need // 2))
    done = run.stage("cache_teacher")
    assert done.returncode == 2
    assert "GB are free there" in done.stderr
    # Filled up by somebody else midway: as the estimate passed, some shards are written, then one
    # is not.
    ballast.write_bytes(b"x" * (size - need - 200_000))
    process = run.start("cache_teacher")
    while not sidecar_path(root, 0).exists():
        assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGSTOP)
    ballast.write_bytes(b"x" * (size - need // 2))
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "No space left on device; free some space and run the same command again" in errors
    assert not list((root / "shards").glob(".tmp*"))
    ballast.unlink()
    run.complete("cache_teacher")
    assert run.hashes("cache_teacher") == finished_run.hashes("cache_teacher")


def test_shards_are_plain_safetensors(run: TinyRun) -> None:
    found = load_file(shard_path(run.run / "teacher_cache/teacher", 0))
    assert {
        "encoder_states",
        "decoder_states",
        "encoder_output",
        "sampled",
        "sampled.offsets",
        "topk_ids",
    } <= found.keys()
