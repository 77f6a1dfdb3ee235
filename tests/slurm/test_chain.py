"""A whole pipeline through slurm/submit.sh on two nodes, and a chain in which a job fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.site import SlurmRun
from tests.tiny_run import ARTIFACTS

pytestmark = pytest.mark.slow


def test_the_whole_pipeline_runs_on_two_nodes_to_the_final_table(undisturbed: SlurmRun) -> None:
    assert {
        key: found for key, found in undisturbed.status().items() if found[0] != "complete"
    } == {}
    for artifacts in ARTIFACTS.values():
        assert all((undisturbed.run / name / "manifest.json").is_file() for name in artifacts)
    table = undisturbed.log("finetune/comparison/report/job-*.out")
    assert "| student " in table
    assert "| interpolated " in table
    # Each rank has a log, and they were on two nodes.
    ranks = undisturbed.log("distill/student/rank-0000[01].log")
    assert "rank 0 of 2" in ranks
    assert "rank 1 of 2" in ranks
    assert "on n1" in ranks
    assert "on n2" in ranks


def test_a_complete_run_has_nothing_to_submit(undisturbed: SlurmRun) -> None:
    assert undisturbed.submit() == {}


def test_a_chain_that_cannot_start_submits_nothing(
    cluster: Cluster, few_documents: Path, tmp_path: Path
) -> None:
    run = SlurmRun(tmp_path, few_documents, cluster)
    refused = run.try_submit("--from", "distill", teacher=True)
    assert refused.returncode != 0
    assert "distill needs tokens, which is not complete" in refused.stderr
    dry = run.try_submit("--dry-run", "--until", "distill", teacher=True)
    assert "sbatch" in dry.stdout
    assert not run.run.exists()
    # The second of two jobs is refused by sbatch: the first is taken back.
    broken = run.try_submit("--until", "distill", settings="TIME[distill]=never\n", teacher=True)
    assert broken.returncode != 0
    assert "cancelling what was submitted" in broken.stderr
    cluster.wait_for_jobs(timeout=30)
    assert not (run.run / "tokens/train").exists()


def test_a_failure_cancels_what_needs_it_and_the_next_submission_makes_only_what_is_missing(
    undisturbed: SlurmRun, cluster: Cluster, few_documents: Path, tmp_path: Path
) -> None:
    run = SlurmRun(tmp_path, few_documents, cluster)
    run.copy(
        undisturbed,
        "tokens",
        "distill/teacher",
        "teacher_cache/teacher",
        "distill_interpolated/chain",
    )
    run.copy(
        undisturbed, "distill_interpolated/chain.assistant-1", "teacher_cache/chain.assistant-1"
    )
    shard = run.run / "teacher_cache/teacher/shards/00005.safetensors"
    data = bytearray(shard.read_bytes())
    # The size stays the same, so only reading a row finds the damage.
    data[len(data) // 10 :: 1000] = bytes(len(data[len(data) // 10 :: 1000]))
    shard.write_bytes(data)
    jobs = run.submit()
    assert list(jobs) == ["distill/student", "finetune/comparison", "finetune/comparison/report"]
    cluster.wait_for_jobs()
    status = run.status()
    assert status["distill/student"][0] == "failed"
    assert "00005.safetensors" in status["distill/student"][1]
    assert status["finetune/comparison/topic/student/seed-0"][0] == "cancelled"
    assert (
        "needs distill/student, which failed"
        in status["finetune/comparison/topic/student/seed-0"][1]
    )
    output = run.log("distill/student/job-*.out")
    assert "| error: " in output  # the failing rank's last lines
    assert "00005.safetensors" in output

    for path in (shard, shard.with_suffix(".json")):
        path.unlink()
    others = {path: path.stat().st_mtime_ns for path in shard.parent.iterdir()}
    again = run.submit("--until", "distill")
    assert list(again) == ["teacher_cache/teacher", "distill/student"]
    cluster.wait_for_jobs()
    assert run.status()["distill/student"][0] == "complete"
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert run.hash("teacher_cache/teacher") == undisturbed.hash("teacher_cache/teacher")
    assert run.hash("distill/student") == undisturbed.hash("distill/student")
    assert "--shards" not in run.log("teacher_cache/teacher/job-*.out")
    assert [path.name for path in (run.run / "logs/teacher_cache/teacher").glob("shards-*")] == [
        "shards-0"
    ]
