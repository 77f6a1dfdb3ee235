"""Every kind of objective trains through the real stage, and what it carries from step to step
survives an interruption."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoModelForSeq2SeqLM

from tests.tiny_run import REPOSITORY, TinyRun

pytestmark = pytest.mark.slow

_TAID = (
    "distill.objective.preset=logits",
    "distill.objective.taid={start: 0.2, alpha: 0.5}",
    "distill.objective.weights={logits: {start: 0, end: 1, steps: 6}}",
)


def _logged(run: TinyRun, name: str) -> list[dict[str, Any]]:
    lines = (run.run / "distill" / name / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if "loss/loss" in (record := json.loads(line))]


def _distill(run: TinyRun, name: str, *overrides: str) -> list[dict[str, Any]]:
    done = run.stage("distill", f"distill.name={name}", "distill.log_every=1", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    return _logged(run, name)


def test_hidden_states_are_compared_through_projections_that_are_dropped_at_export(
    cached_run: TinyRun,
) -> None:
    log = _distill(
        cached_run,
        "narrow",
        "distill.objective.preset=tinybert",
        "distill.objective.weights={encoder_relations: 0, decoder_relations: 0}",
        "distill.objective.hidden=[{stack: encoder}, {stack: decoder, teacher: -1, student: -1}]",
        "student={d_model: 24, d_ff: 48, encoder_layers: 1, decoder_layers: 1, init: random}",
        "distill.learning_rate=0.01",
    )
    assert log[-1]["loss/hidden"] < 0.9 * log[0]["loss/hidden"]
    hf = cached_run.run / "distill/narrow/hf"
    with safe_open(hf / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "hidden" in name or "projection" in name]  # noqa: SIM118
    _, report = AutoModelForSeq2SeqLM.from_pretrained(hf, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_relations_alone_train_when_every_weight_is_partitioned(
    cached_run: TinyRun, tmp_path: Path
) -> None:
    # As with large models, whose weights are above the threshold: each is gathered for the module
    # that uses it, and released.
    config = json.loads((REPOSITORY / "ds_configs/zero3_cpu.json").read_text())
    config["zero_optimization"] |= {"stage3_param_persistence_threshold": 0}
    (tmp_path / "partitioned.json").write_text(json.dumps(config))
    ways = (
        f"distill.deepspeed={tmp_path / 'partitioned.json'}",
        f"distill.deepspeed={REPOSITORY / 'ds_configs/zero3_cpu.json'}",
    )
    parts = "distill.objective.weights={lm: 0, cross_relations: 1, decoder_attention: 1}"
    logs = [
        _distill(
            cached_run,
            f"way-{index}",
            way,
            parts,
            "distill.objective.preset=minilm",
            "distill.max_steps=4",
        )
        for index, way in enumerate(ways)
    ]
    assert logs[0][-1]["loss/loss"] == pytest.approx(logs[1][-1]["loss/loss"], rel=1e-3)


def test_attention_transfer_of_equal_models_is_zero_and_falls_otherwise(
    cached_run: TinyRun,
) -> None:
    log = _distill(
        cached_run,
        "v1",
        "distill.objective.preset=minilm_v1",
        "distill.objective.weights={cross_attention: 1}",
    )
    assert {"loss/encoder_attention", "loss/decoder_attention", "loss/cross_attention"} <= log[
        0
    ].keys()
    assert all(math.isfinite(value) for record in log for value in record.values())
    # A student that is the teacher: every attention of its last blocks is the teacher's, and stays
    # so without a learning rate.
    same = _distill(
        cached_run,
        "same",
        "distill.objective.preset=minilm_v1",
        "distill.objective.weights={lm: 0, cross_attention: 1, logits: 1, decoder_relations: 1}",
        "student={encoder_layers: 3, decoder_layers: 3, init: layers}",
        "distill.max_steps=1",
        "distill.learning_rate=1.0e-12",
    )
    parts = {
        name: value
        for name, value in same[0].items()
        if name.startswith("loss/") and name != "loss/lm"
    }
    assert len(parts) == 6
    # bf16 rounds what the two compute in differently shaped batches.
    assert max(parts.values()) < 1e-3


def test_a_teacher_run_online_gives_the_losses_of_its_cache(cached_run: TinyRun) -> None:
    settings = ("distill.objective.preset=miniend", "distill.max_steps=3", "distill.dtype=float32")
    cached = _distill(cached_run, "cached", *settings)
    online = _distill(cached_run, "online", *settings, "distill.targets=online")
    for ours, theirs in zip(cached, online, strict=True):
        for part in ("lm", "logits", "decoder_relations", "cross_relations"):
            assert ours[f"loss/{part}"] == pytest.approx(theirs[f"loss/{part}"], rel=0.02)


def test_taid_and_scheduled_weights_survive_a_signal(cached_run: TinyRun) -> None:
    whole = _distill(cached_run, "whole", *_TAID)
    assert whole[0]["weighted/logits"] == 0.0
    assert whole[3]["weighted/logits"] == pytest.approx(whole[3]["loss/logits"] / 2, rel=1e-3)
    process = cached_run.logging(
        "distill", "distill/cut", 4, "distill.name=cut", "distill.save_every=1000", *_TAID
    )
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=120)
    assert process.returncode == 75
    record = json.loads(
        next(cached_run.run.glob("distill/cut/checkpoints/*/complete.json")).read_text()
    )
    share, momentum, last_loss = record["state"]["taid"]
    assert share > 0.2
    assert momentum != 0.0
    assert last_loss > 0.0
    _distill(cached_run, "cut", *_TAID)
    weights = [
        cached_run.run / "distill" / name / "hf/model.safetensors" for name in ("whole", "cut")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("distill.objective.blocks={teacher_decoder: -2}",),
            "there are 1 blocks (a deeper cut caches more of the teacher)",
        ),
        (
            ("distill.objective.blocks={student_encoder: -2}",),
            "distill.objective.blocks.student_encoder is -2",
        ),
        (
            ("distill.targets=sampled",),
            "cannot serve the objective's decoder_relations, cross_relations",
        ),
        (
            ("distill.targets=sampled", "distill.objective={preset: logits, temperature: 2}"),
            "hold the teacher's distribution at 1",
        ),
        (
            (
                "distill.targets=sampled",
                "distill.objective={preset: logits, divergence: reverse_kl}",
            ),
            "unbiased only for forward_kl",
        ),
        (
            ("distill.targets=topk", "distill.objective={preset: logits, taid: {}}"),
            "cannot serve taid",
        ),
    ],
)
def test_what_cannot_work_is_said_at_the_start(
    cached_run: TinyRun, overrides: tuple[str, ...], words: str
) -> None:
    done = cached_run.stage("distill", *overrides)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (cached_run.run / "distill/student").exists()
