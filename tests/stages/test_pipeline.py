"""The stages, run one after the other as a user runs them, leave what the next one and a reader
need."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.artifacts import Artifact
from tests import forked
from tests.tiny_run import ENVIRONMENT, TinyRun

pytestmark = pytest.mark.slow


def test_the_student_is_an_ordinary_transformers_model(finished_run: TinyRun) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    directory = finished_run.run / "distill/student/hf"
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(directory),
        AutoTokenizer.from_pretrained(directory),
    )
    assert (model.config.num_layers, model.config.num_decoder_layers, model.config.d_model) == (
        1,
        1,
        32,
    )
    assert model.lm_head.weight is not model.shared.weight, "T5 1.1 has a head of its own"
    batch = tokenizer(["A river in <extra_id_0>."], return_tensors="pt")
    assert model.generate(**batch, max_new_tokens=4).shape[0] == 1
    assert "objective" in (directory / "README.md").read_text()


def test_cached_replay_was_exact_in_every_shard(finished_run: TinyRun) -> None:
    cache, tokens = (
        Artifact(finished_run.run / "teacher_cache/teacher"),
        Artifact(finished_run.run / "tokens/train"),
    )
    assert len(cache.shards) == len(tokens.shards) > 4
    for ours, theirs in zip(cache.shards, tokens.shards, strict=True):
        assert ours.notes["token_shard_sha256"] == theirs.sha256
        assert {error["max"] for error in ours.notes["replay_error"].values()} == {0.0}


def test_metrics_and_tensorboard_carry_the_same_numbers(finished_run: TinyRun) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = finished_run.run / "distill/student"
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    board = EventAccumulator(str(root / "tensorboard"))
    board.Reload()
    tags = set(board.Tags()["scalars"])
    parts = ("lm", "logits", "decoder_relations", "cross_relations")
    losses = {"loss/loss", *(f"{kind}/{part}" for kind in ("loss", "weighted") for part in parts)}
    rest = {
        "train/learning_rate",
        "train/gradient_norm",
        "train/gradient_norm_spikes",
        "train/skipped_steps",
        "speed/tokens_per_second",
        "speed/tflops_per_device",
        "speed/mfu",
        "speed/loader_wait_share",
        "speed/checkpoint_seconds",
        "memory/peak_gib",
        "validation/lm_loss",
    }
    assert tags == losses | rest
    for tag in tags:
        written = [(line["step"], line[tag]) for line in lines if tag in line]
        shown = [(event.step, event.value) for event in board.Scalars(tag)]
        assert shown == [(step, pytest.approx(value, rel=1e-6)) for step, value in written]


def test_a_chain_shares_the_steps_and_shrinks_from_link_to_link(finished_run: TinyRun) -> None:
    root = finished_run.run / "distill_interpolated"
    layers = [
        json.loads((path / "hf/config.json").read_text())["num_layers"]
        for path in (
            finished_run.run / "distill/teacher",
            root / "chain.assistant-1",
            root / "chain",
        )
    ]
    assert layers == [3, 2, 1]
    steps = [
        json.loads((root / name / "summary.json").read_text())["steps"]
        for name in ("chain.assistant-1", "chain")
    ]
    assert (
        sum(steps)
        == json.loads((finished_run.run / "distill/student/summary.json").read_text())["steps"]
    )


def test_processes_that_cache_one_after_the_other_leave_no_shard_out(
    finished_run: TinyRun, few_documents: Path, tmp_path: Path
) -> None:
    run = TinyRun(tmp_path, few_documents)
    for name in ("tokens", "distill/teacher"):
        shutil.copytree(finished_run.run / name, run.run / name)
    manifest = run.run / "teacher_cache/teacher/manifest.json"
    for rank in (1, 0):
        assert not manifest.exists()
        environment = ENVIRONMENT | {"RANK": str(rank), "WORLD_SIZE": "2"}
        done = forked.run(run.command("cache_teacher"), environment)
        assert done.returncode == 0, done.stderr
    assert run.hashes("cache_teacher") == finished_run.hashes("cache_teacher")
