"""Files that are not what was written: flipped bytes, cut ends, forged records.

They are refused in one line, or made again; they are never used.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.artifacts.sealed import unseal, write_sealed
from tests import forked
from tests.faults.kills import verified_hashes
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow

Damage = Callable[[Path], None]


def flip(path: Path) -> None:
    """Change one bit of some byte, not of white space, which would leave the meaning."""
    data = bytearray(path.read_bytes())
    if path.parent.name == "shards":  # one in every row: a short training does not read all of them
        for offset in range(8192, len(data), 97):
            data[offset] ^= 1
        path.write_bytes(data)
        return
    offset = random.Random(path.name).choice(
        [i for i, byte in enumerate(data[:200_000]) if byte not in b" \n"]
    )
    data[offset] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def refused(run: TinyRun, stage: str) -> str:
    """Return the one line that a stage says."""
    done = run.stage(stage)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def made_good(run: TinyRun, stage: str, finished: TinyRun) -> str:
    """Return the output of a stage that ends in the bytes of an undisturbed run."""
    done = run.stage(stage)
    assert done.returncode == 0, done.stderr
    assert verified_hashes(run, stage) == verified_hashes(finished, stage)
    return done.stdout


@pytest.mark.parametrize("damage", [flip, cut], ids=["flipped", "cut"])
@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("cache_teacher", "tokens/train/shards/00002.safetensors"),
        ("cache_teacher", "tokens/train/manifest.json"),
        ("cache_teacher", "tokens/tokenizer/hf/tokenizer.json"),
        ("cache_teacher", "distill/teacher/hf/model.safetensors"),
        ("cache_teacher", "distill/teacher/hf/config.json"),
        ("distill", "tokens/train/shards/00001.safetensors"),
        ("distill", "tokens/validation/shards/00000.safetensors"),
        ("distill", "teacher_cache/teacher/shards/00003.safetensors"),
        ("distill", "teacher_cache/teacher/manifest.json"),
        ("distill", "teacher_cache/teacher/tail/model.safetensors"),
        ("finetune", "distill/student/hf/model.safetensors"),
        ("finetune", "distill/student/hf/tokenizer.json"),
    ],
)
def test_damaged_input_is_named(
    run_of: Callable[..., TinyRun], stage: str, file: str, damage: Damage
) -> None:
    run = run_of(stage)
    damage(run.run / file)
    said = refused(run, stage)
    assert str(run.run / file) in said
    assert "run its stage again" in said or "&& python stages/" in said


@pytest.mark.parametrize("damage", [flip, cut], ids=["flipped", "cut"])
@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("tokenize_corpus", "tokens/train/shards/00002.json"),
        ("cache_teacher", "teacher_cache/teacher/shards/00002.json"),
        ("distill", "distill/student/checkpoints/step-00000012/complete.json"),
        ("distill", "distill/student/checkpoints/step-00000012/*_optim_states.pt"),
        ("distill", "distill/student/metrics.jsonl"),
    ],
)
def test_damage_in_an_unfinished_output_is_made_good(
    run_of: Callable[..., TinyRun], finished_run: TinyRun, stage: str, file: str, damage: Damage
) -> None:
    output = Path(file).parts[0] if stage == "tokenize_corpus" else "/".join(Path(file).parts[:2])
    run = run_of(stage, output)
    for name in ("manifest.json", "train/manifest.json", "hf"):
        path = run.run / output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (found,) = run.run.glob(file)
    damage(found)
    said = made_good(run, stage, finished_run)
    assert ("skipping checkpoint" in said) == ("step-00000012" in file)


def test_a_record_that_claims_a_million_million_rows(run_of: Callable[..., TinyRun]) -> None:
    run = run_of("cache_teacher")
    for forged in ("rows", "both"):
        manifest = run.run / "tokens/train/manifest.json"
        record = unseal(manifest.read_bytes())
        record["shards"][1]["rows"] = 10**12
        if forged == "both":
            record["shards"][1]["bytes"] = 10**15
        write_sealed(manifest, record)
        said = refused(run, "cache_teacher")
        assert (
            str(manifest if forged == "rows" else manifest.parent / "shards/00001.safetensors")
            in said
        )


@pytest.mark.parametrize("name", ["../../x", "/etc/hostname", "hf/../../../x"])
def test_a_manifest_that_names_a_file_outside(run_of: Callable[..., TinyRun], name: str) -> None:
    run = run_of("cache_teacher")
    manifest = run.run / "tokens/tokenizer/manifest.json"
    record = unseal(manifest.read_bytes())
    record["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    write_sealed(manifest, record)
    said = refused(run, "cache_teacher")
    assert str(manifest) in said
    assert "points outside the artifact" in said


def test_a_link_out_of_the_directory_is_followed_but_not_trusted(
    run_of: Callable[..., TinyRun], finished_run: TinyRun, tmp_path: Path
) -> None:
    run = run_of("cache_teacher")
    shard = run.run / "tokens/train/shards/00001.safetensors"
    elsewhere = tmp_path / "elsewhere"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    (run.run / "teacher_cache").mkdir()
    flip(elsewhere)
    assert str(shard) in refused(run, "cache_teacher")
    flip(elsewhere)  # back again
    made_good(run, "cache_teacher", finished_run)
    assert elsewhere.exists()


class _Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


def test_pickled_weights_are_refused_and_not_opened(
    run_of: Callable[..., TinyRun], tmp_path: Path
) -> None:
    run, trace = run_of("cache_teacher"), tmp_path / "unpickled"
    hf = run.run / "distill/teacher/hf"
    other = tmp_path / "pickled"
    shutil.copytree(hf, other)
    (other / "model.safetensors").unlink()
    (other / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload(trace)))
    for stage in ("cache_teacher", "distill", "finetune"):
        option = (
            f"finetune.models={{student: {other}}}"
            if stage == "finetune"
            else f"teacher.model={other}"
        )
        done = run.stage(stage, option)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert f"{other}: only pickled weights" in done.stderr
    assert not trace.exists()


def test_nothing_depends_on_the_times_of_files(
    run_of: Callable[..., TinyRun], finished_run: TinyRun
) -> None:
    """Half a cache and half a training whose files come from a clock that was ahead by a year."""
    run = run_of("distill", "distill/student")
    for gone in ("distill/student/manifest.json", "teacher_cache/teacher/manifest.json"):
        (run.run / gone).unlink()
    shutil.rmtree(run.run / "distill/student/hf")
    shutil.rmtree(run.run / "distill/student/checkpoints/step-00000012")
    for index in (0, 4):
        (run.run / f"teacher_cache/teacher/shards/{index:05d}.json").unlink()
    ahead = 4e9
    for path in run.run.rglob("*"):
        os.utime(path, (ahead, ahead))
    made_good(run, "cache_teacher", finished_run)
    assert "resuming after step 9" in made_good(run, "distill", finished_run)
    metrics = [
        json.loads(line)
        for line in (run.run / "distill/student/metrics.jsonl").read_text().splitlines()
    ]
    steps = [line["step"] for line in metrics if "loss/loss" in line]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("stage", ["cache_teacher", "distill"])
def test_a_clock_that_runs_backwards(
    run_of: Callable[..., TinyRun], finished_run: TinyRun, stage: str
) -> None:
    run = run_of(stage)
    python, *script = run.command(stage)
    done = forked.run([python, str(Path(__file__).with_name("backwards.py")), *script])
    assert done.returncode == 0, done.stderr
    assert verified_hashes(run, stage) == verified_hashes(finished_run, stage)
