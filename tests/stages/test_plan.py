"""`miniend plan` against what the stages make."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from pipeline.artifacts import Artifact
from pipeline.models import open_model
from pipeline.models.counts import block_counts, parameter_counts
from tests.tiny_run import ENVIRONMENT, REPOSITORY, TinyRun

pytestmark = pytest.mark.slow


def test_disk_and_parameters_are_exactly_what_the_stages_make(cached_run: TinyRun) -> None:
    run = cached_run
    kinds = {
        "states": "[states]",
        "states int8": "[states]",
        "topk": "[topk]",
        "sampled": "[sampled]",
    }
    made = {}
    for number, (kind, cached) in enumerate(kinds.items()):
        settings = [f"teacher.name=t{number}", f"cache.kinds={cached}", "cache.topk.k=8"]
        settings += (
            ["cache.states={dtype: int8, group_size: 12, outliers: 3}"] if "int8" in kind else []
        )
        done = run.stage("cache_teacher", *settings)
        assert done.returncode == 0, done.stderr
        made[kind] = Artifact(run.run / f"teacher_cache/t{number}")
    for stage in ("distill", "distill_interpolated"):
        run.complete(stage)

    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "plan",
        str(run.recipe),
        "--json",
        "--gpu",
        "cpu",
        "--gpus",
        "1",
    ]
    command += ["cache.topk.k=8", "cache.states={group_size: 12, outliers: 3}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)

    assert plan["rows"]["rows"] == made["states"].manifest.totals["rows"]
    planned = plan["links"][0]["targets"]
    for kind, cache in made.items():
        size = sum(shard.bytes for shard in cache.shards)
        if kind == "sampled":
            # Codes vary in length: the flatter the teacher's distribution, the longer they are.
            assert 0.5 * size < planned[kind]["shard_bytes"] < 2 * size
        else:
            assert planned[kind]["shard_bytes"] == size, kind
        if "states" in kind:
            tail = load_file(cache.root / "tail/model.safetensors")
            assert planned[kind]["tail_bytes"] == sum(weight.nbytes for weight in tail.values())

    for model, directory in [
        (plan["teacher"], "distill/teacher"),
        *((link["student"], link["key"]) for link in plan["links"]),
    ]:
        made_model = open_model(str(run.run / directory / "hf"))
        counts = parameter_counts(made_model)
        assert model["parameters"] == counts.total
        assert model["embedding_parameters"] == counts.embeddings
        assert (model["encoder_layers"], model["decoder_layers"]) == block_counts(made_model)
