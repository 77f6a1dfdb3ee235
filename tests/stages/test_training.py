"""The training loop through the real stage: its saves, its end, its log and its refusals."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.training.trace import RECORDED, WARMUP
from tests.poison import poison
from tests.tiny_run import ENVIRONMENT, REPOSITORY, TinyRun

pytestmark = pytest.mark.slow

#: A learning rate at which the validation loss goes down, and then up again.
_ROUGH = ("distill.learning_rate=0.3", "distill.warmup_steps=0", "distill.schedule=constant")
_EARLY = (
    *_ROUGH,
    "distill.max_steps=40",
    "distill.validate_every=2",
    "distill.patience=2",
    "distill.min_delta=0.5",
    "distill.export=best",
    "distill.keep_every=5",
    "distill.save_every=1",
)

#: Of the feed-forward layers' forward pass, whichever way Transformers writes it.
_ACTIVATIONS = {"aten::gelu", "aten::tanh"}


def _distill(run: TinyRun, name: str, *overrides: str) -> Path:
    done = run.stage("distill", f"distill.name={name}", "distill.log_every=1", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    return run.run / "distill" / name


def _metrics(root: Path, key: str) -> dict[int, float]:
    records = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record[key] for record in records if key in record}


def _steps(root: Path) -> list[int]:
    return sorted(
        int(path.parent.name.removeprefix("step-"))
        for path in root.glob("checkpoints/*/complete.json")
    )


def test_early_stopping_exports_the_best_weights_killed_or_not(cached_run: TinyRun) -> None:
    early = _distill(cached_run, "early", *_EARLY, "--profile")
    found = _metrics(early, "validation/lm_loss")
    best = min(found, key=lambda step: found[step])
    summary = json.loads((early / "summary.json").read_text())
    assert summary["stopped_early"] is True
    assert summary["steps"] == max(found) < summary["max_steps"] == 40
    assert summary["exported_step"] == best
    assert summary["validation"]["lm_loss"] == found[best]
    last = summary["steps"]
    assert _steps(early) == sorted({best, last - 1, last, *range(5, last, 5)})

    # The same weights as a run that ends there.
    short = _distill(cached_run, "short", *_ROUGH, f"distill.max_steps={best}")
    weights = "hf/model.safetensors"
    assert (early / weights).read_bytes() == (short / weights).read_bytes()

    # Killed after the last validation but one, whose being in vain has to be remembered.
    logged = [
        json.loads(line)["step"] for line in (early / "metrics.jsonl").read_text().splitlines()
    ]
    process = cached_run.logging(
        "distill", "distill/killed", logged.index(last - 1) + 1, "distill.name=killed", *_EARLY
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = cached_run.run / "distill/killed"
    assert not (killed / "hf").exists()
    assert (
        f"resuming after step {_steps(killed)[-1]}"
        in cached_run.stage("distill", "distill.name=killed", *_EARLY).stdout
    )
    assert _steps(killed) == _steps(early)
    for file in (weights, "summary.json"):
        assert (killed / file).read_bytes() == (early / file).read_bytes()
    if last >= WARMUP + RECORDED:
        _check_trace(_trace(early))
    _check_figures(early)


def _trace(root: Path) -> list[dict[str, Any]]:
    with gzip.open(root / "profile/rank-00000.pt.trace.json.gz", "rt") as file:
        return [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]


def _computed_in(span: str, trace: list[dict[str, Any]]) -> set[str]:
    ranges = [(event["ts"], event["ts"] + event["dur"]) for event in trace if event["name"] == span]
    return {
        event["name"] for event in trace if any(start <= event["ts"] < end for start, end in ranges)
    }


def _check_trace(trace: list[dict[str, Any]]) -> None:
    assert len([event for event in trace if event["name"].startswith("ProfilerStep#")]) == 3
    assert "aten::mm" in _computed_in("forward", trace) & _computed_in("backward", trace)
    assert "aten::addcdiv_" in _computed_in("optimizer", trace)
    assert not _ACTIVATIONS & _computed_in("backward", trace)


def _check_figures(root: Path) -> None:
    for key in (
        "speed/tflops_per_device",
        "speed/mfu",
        "speed/checkpoint_seconds",
        "memory/peak_gib",
    ):
        assert all(0 < value < math.inf for value in _metrics(root, key).values()), key
    board = EventAccumulator(str(root / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    assert board.Tags()["tensors"] == ["samples/0/text_summary", "samples/1/text_summary"]
    shown = [
        event.tensor_proto.string_val[0].decode()
        for event in board.Tensors("samples/0/text_summary")
    ]
    assert len(shown) == len(_metrics(root, "validation/lm_loss"))
    assert "**generated" in shown[0]
    assert "<extra_id_0>" in shown[0]


def test_other_ways_of_computing_a_step_train_alike(
    cached_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = ("distill.dtype=float32", "distill.max_steps=4", "distill.warmup_steps=1")
    ways = {
        "plain": ["--profile"],
        # Optimizer states on the CPU, four micro batches to a step, and activations computed again.
        "frugal": [
            f"distill.deepspeed={REPOSITORY}/ds_configs/zero3_offload.json",
            "distill.micro_batch_size=2",
            "distill.activation_checkpointing=true",
            "--profile",
        ],
    }
    if shutil.which("g++"):
        monkeypatch.setitem(ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
        ways["compiled"] = [
            f"distill.deepspeed={REPOSITORY}/ds_configs/zero2_finetune.json",
            "distill.compile=true",
            "distill.activation_checkpointing=true",
        ]
    logs = {way: _distill(cached_run, way, *exact, *settings) for way, settings in ways.items()}
    for way in ways:
        for key in (
            "loss/lm",
            "loss/logits",
            "loss/decoder_relations",
            "loss/cross_relations",
            "train/gradient_norm",
        ):
            assert _metrics(logs[way], key) == pytest.approx(
                _metrics(logs["plain"], key), rel=1e-4
            ), (way, key)
    _check_trace(_trace(logs["plain"]))
    assert _ACTIVATIONS & _computed_in("backward", _trace(logs["frugal"])), (
        "nothing was computed again"
    )
    assert "compiled" not in ways or list(tmp_path.glob("compiled/**/*.cpp")), (
        "nothing was compiled"
    )


def test_rows_whose_loss_is_not_finite_are_named_and_nothing_of_them_is_saved(
    cached_run: TinyRun,
) -> None:
    cache = cached_run.run / "teacher_cache/teacher"
    poisoned = {(shard, poison(cache, shard)) for shard in range(4)}
    done = cached_run.stage("distill", "distill.max_steps=100", "distill.max_skipped_steps=1")
    assert done.returncode == 2, done.stdout
    named = done.stderr.split("the loss of each of these rows alone is not finite (shard:row ")[
        1
    ].split(")")[0]
    assert named in {f"{shard}:{row}" for shard, row in poisoned}
    newest = max((cached_run.run / "distill/student/checkpoints").glob("step-*/*_states.pt"))
    (states,) = newest.parent.glob(
        "*zero_pp_rank_0_mp_rank_00_optim_states.pt"
    )  # of bfloat16 `bf16_…`
    for group in torch.load(states, weights_only=False)["optimizer_state_dict"]["fp32_flat_groups"]:
        assert torch.isfinite(group).all()


def test_weights_that_are_not_finite_are_not_saved(cached_run: TinyRun) -> None:
    done = cached_run.stage(
        "distill",
        "distill.learning_rate=3.0e+37",
        "distill.weight_decay=1.0e+9",
        "distill.warmup_steps=0",
        "distill.save_every=1",
    )
    assert done.returncode == 2, done.stdout
    assert "weights or moments are not finite after step 1, so nothing was saved" in done.stderr
    assert not list(cached_run.run.glob("distill/student/checkpoints/*/*"))
