"""Teachers that are no T5 go through the same stages: cached, distilled, and the student is one of
them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipeline.artifacts import Artifact
from pipeline.families import family_of
from tests.tiny_models import PAD, tiny_model
from tests.tiny_run import TinyRun

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(few_documents: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("families"), few_documents)
    run.complete("tokenize_corpus")
    return run


# A Marian also has weights that are computed and never trained, and scales what enters its decoder.
@pytest.mark.parametrize("name", ["bart", "marian", "mbart"])
def test_a_teacher_is_cached_and_distilled(run: TinyRun, tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.run / "tokens/tokenizer/hf")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD, 1), "as in the tiny models"
    teacher = tiny_model(name, layers=(3, 2), vocab_size=len(tokenizer))
    teacher.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = [
        f"teacher.model={tmp_path}",
        f"teacher.name={name}",
        f"distill.name={name}",
        "cache.decoder_cut=0",
    ]
    steps = [
        "distill.dropout=0.1",
        "distill.max_steps=4",
        "distill.warmup_steps=1",
        "distill.log_every=1",
        "distill.save_every=2",
    ]
    for stage in ("cache_teacher", "distill"):
        done = run.stage(stage, *settings, *steps)
        assert done.returncode == 0, f"{stage} failed:\n{done.stdout}\n{done.stderr}"

    for shard in Artifact(run.run / "teacher_cache" / name).shards:
        assert {error["max"] for error in shard.notes["replay_error"].values()} == {0.0}
    directory = run.run / "distill" / name / "hf"
    student, report = AutoModelForSeq2SeqLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values())
    shape = family_of(student.config).shape(student.config)
    assert (student.config.model_type, shape.encoder_layers, shape.decoder_layers) == (name, 1, 1)
    assert student.final_logits_bias.equal(teacher.final_logits_bias.to(student.dtype))
    positions = [model.model.encoder.embed_positions.weight for model in (teacher, student)]
    assert positions[1].equal(positions[0].to(student.dtype)) == (name == "marian"), (
        "the others' are trained"
    )
    batch = AutoTokenizer.from_pretrained(directory)(
        ["A river in <extra_id_0>."], return_tensors="pt"
    )
    generated = student.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=4
    )
    start = teacher.config.decoder_start_token_id
    assert generated[0, 0] == (tokenizer.eos_token_id if start is None else start), "mBART has none"
    lines = [
        json.loads(line)
        for line in (run.run / "distill" / name / "metrics.jsonl").read_text().splitlines()
    ]
    for part in ("loss/lm", "loss/logits", "loss/decoder_relations", "loss/cross_relations"):
        values = [line[part] for line in lines if part in line]
        assert len(values) == 4
        assert all(math.isfinite(value) for value in values)

    if name == "bart":  # and with activations computed again the same
        again = ["distill.name=again", "distill.activation_checkpointing=true"]
        done = run.stage("distill", *settings, *steps, *again)
        assert done.returncode == 0, done.stderr
        weights = [run.run / "distill" / each / "hf/model.safetensors" for each in (name, "again")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
