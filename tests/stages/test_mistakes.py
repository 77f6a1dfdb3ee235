"""A user's mistake is one clear line on stderr, exit code 2, and nothing written or lost."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.artifacts.manifest import shard_path
from tests.tiny_run import ENVIRONMENT, PYTHON, REPOSITORY, TinyRun
from tests.tiny_t5 import save_tiny_t5

pytestmark = pytest.mark.slow


def _refused(run: TinyRun, stage: str, *overrides: str) -> str:
    before = (
        {path: path.stat().st_mtime_ns for path in run.run.rglob("*")} if run.run.exists() else {}
    )
    done = run.stage(stage, *overrides)
    after = (
        {path: path.stat().st_mtime_ns for path in run.run.rglob("*")} if run.run.exists() else {}
    )
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(lines) == 1, f"not one line: {done.stderr}"
    assert lines[0].startswith("error: ")
    touched = sorted(str(path) for path, _ in set(before.items()) ^ set(after.items()))
    assert touched == [], "something was written"
    return lines[0]


@pytest.mark.parametrize(
    ("stage", "overrides", "words"),
    [
        ("tokenize_corpus", ["tokens.vews=2"], "did you mean tokens.views?"),
        ("tokenize_corpus", ["corpus.sources=[nowhere.jsonl]"], "nowhere.jsonl does not exist"),
        ("tokenize_corpus", ["tokenizer.vocab_size=90000"], "vocab_size"),
        ("cache_teacher", ["run={other}"], "does not exist: run the stage that makes it first"),
        ("cache_teacher", ["teacher.model=nowhere/to/be"], "no such directory"),
        ("cache_teacher", ["cache.encoder_cut=7"], "blocks 0 to 2"),
        ("distill", ["distill.objective.weights={logitz: 1}"], "did you mean logits?"),
        ("distill", ["distill.objective.relation_heads=5"], "does not divide"),
        ("distill", ["student.num_heads=64", "student.init=random"], "is more than 4 × d_model"),
        ("distill", ["student.encoder_layers=9"], "cannot be copied from a teacher with 3"),
        ("distill", ["distill.batch_size=9", "distill.micro_batch_size=4"], "is not a multiple of"),
        ("distill", ["distill.deepspeed=nowhere.json"], "nowhere.json does not exist"),
        ("distill", ["distill.dtype=float16"], "overflow"),
        ("distill", ["distill.compile=true"], "leaves nothing to compile: set deepspeed="),
        ("distill", ["teacher=null"], "names no teacher"),
        ("distill_interpolated", ["interpolated.step_shares=[1, 1, 1]"], "3 entries for 2 links"),
        ("finetune", ["finetune.models={student: nowhere/at/all}"], "no such directory"),
    ],
)
def test_one_line_and_nothing_written(
    finished_run: TinyRun, tmp_path: Path, stage: str, overrides: list[str], words: str
) -> None:
    overrides = [override.replace("{other}", str(tmp_path / "empty")) for override in overrides]
    # A name of its own, so that what is tested is this mistake and not that the finished result was
    # made otherwise.
    name = {"distill": ["distill.name=mistake"], "cache_teacher": ["teacher.name=mistake"]}.get(
        stage, []
    )
    if stage == "tokenize_corpus":
        name = [f"run={tmp_path / 'run'}"]
    assert words in _refused(finished_run, stage, *name, *overrides)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "override", "words"),
    [
        ("tokenize_corpus", "tokens.views=1", "settings.views: 2 -> 1"),
        ("cache_teacher", "cache.batch_size=8", "settings.batch_size: 16 -> 8"),
        ("distill", "cache.batch_size=8", "settings.batch_size: 16 -> 8"),
        ("distill", "distill.max_steps=13", "settings.max_steps: 12 -> 13"),
        ("finetune", "finetune.learning_rate=0.5", "settings.learning_rate: 0.002 -> 0.5"),
    ],
)
def test_a_directory_made_from_another_recipe_is_refused(
    finished_run: TinyRun, stage: str, override: str, words: str
) -> None:
    error = _refused(finished_run, stage, override)
    assert "was made from something else" in error
    assert words in error


def test_text_that_is_empty_or_not_utf8(finished_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("")
    for file, words in (("latin1.txt", "not UTF-8"), ("empty.txt", "0 documents hold 0 tokens")):
        error = _refused(
            finished_run,
            "tokenize_corpus",
            f"run={tmp_path / 'run'}",
            f"corpus.sources=[{tmp_path / file}]",
        )
        assert words in error
        assert not (tmp_path / "run").exists()


def test_a_corrupt_cache_shard_stops_the_student_and_one_command_rebuilds_it(
    finished_run: TinyRun, few_documents: Path, tmp_path: Path
) -> None:
    run = TinyRun(tmp_path / "corrupt", few_documents)
    for name in ("tokens", "distill/teacher", "teacher_cache"):
        shutil.copytree(finished_run.run / name, run.run / name)
    shard = shard_path(run.run / "teacher_cache/teacher", 2)
    data = bytearray(shard.read_bytes())
    for place in range(
        8192, len(data), 97
    ):  # in every row: this training does not read all of them
        data[place] ^= 4
    shard.write_bytes(data)
    done = run.stage("distill")
    assert done.returncode == 2
    assert f"{shard} is not what was written" in done.stderr
    _, _, command = done.stderr.strip().partition("to rebuild this shard alone: ")
    command = command.replace("&& python ", f"&& {shlex.quote(PYTHON)} ")
    before = {path: path.stat().st_mtime_ns for path in shard.parent.glob("*.safetensors")}
    rebuilt = subprocess.run(
        command, shell=True, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert {path for path, time in before.items() if path.stat().st_mtime_ns != time} == {shard}
    assert run.hashes("cache_teacher") == finished_run.hashes("cache_teacher")
    run.complete("distill")
    assert run.hashes("distill") == finished_run.hashes("distill")


def test_an_incomplete_checkpoint_is_skipped_with_a_message(
    finished_run: TinyRun, few_documents: Path, tmp_path: Path
) -> None:
    run = TinyRun(tmp_path / "torn", few_documents)
    for name in ("tokens", "distill/teacher", "teacher_cache", "distill/student"):
        shutil.copytree(finished_run.run / name, run.run / name)
    student = run.run / "distill/student"
    shutil.rmtree(student / "hf")
    (student / "manifest.json").unlink()
    (student / "checkpoints/step-00000012/complete.json").unlink()
    done = run.stage("distill")
    assert done.returncode == 0, done.stderr
    assert "skipping checkpoint" in done.stdout
    assert "resuming after step 9" in done.stdout
    assert (student / "hf/model.safetensors").read_bytes() == (
        finished_run.run / "distill/student/hf/model.safetensors"
    ).read_bytes()


def test_a_teacher_with_another_vocabulary_is_refused(
    finished_run: TinyRun, few_documents: Path, tmp_path: Path
) -> None:
    other = save_tiny_t5(
        tmp_path / "other", few_documents.read_text(encoding="utf-8").splitlines()[:50]
    )
    for stage in ("cache_teacher", "distill"):
        name = "teacher.name=mistake" if stage == "cache_teacher" else "distill.name=mistake"
        overrides = [
            f"teacher.model={other}",
            name,
            "distill.objective.preset=lm",
            "student.init=random",
        ]
        error = _refused(finished_run, stage, *overrides)
        assert str(other) in error
        assert "set tokenizer.path to" in error
