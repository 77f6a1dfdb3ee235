"""A site for the tests: cluster.env for the test cluster, and runs that submit.sh submits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.slurm.cluster import Cluster
from tests.tiny_run import PYTHON, REPOSITORY, TinyRun

#: Two nodes with one rank each; a cache's array has two tasks of one rank.
_CLUSTER_ENV = f"""
PARTITION=batch ACCOUNT= QOS= SBATCH_OPTIONS=() CONTAINER=() SRUN_OPTIONS=()
PYTHON={PYTHON}
cluster_setup() {{ export PYTHONPATH={REPOSITORY} HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1; }}
GPUS_PER_NODE=0 CPUS_PER_GPU=1 MEMORY_PER_NODE=
declare -A NODES=([tokenize_corpus]=1 [cache_teacher]=1 [finetune]=1)
NODES+=([distill]=2 [distill_interpolated]=2)
declare -A RANKS=([tokenize_corpus]=2 [cache_teacher]=1 [finetune]=1)
RANKS+=([distill]=1 [distill_interpolated]=1)
declare -A TIME=([tokenize_corpus]=10 [cache_teacher]=10 [finetune]=10)
TIME+=([distill]=10 [distill_interpolated]=10)
CPU_STAGES=(tokenize_corpus)
CACHE_TASKS=2 ARRAY_AT_ONCE=2 LEAD=10 MAX_STALLED_RESTARTS=3
"""


class SlurmRun(TinyRun):
    """A tiny run whose stages are jobs.

    It has enough steps to be interrupted, and a cache that takes a few seconds.
    """

    def __init__(self, root: Path, documents: Path, cluster: Cluster) -> None:
        super().__init__(root, documents)
        self.cluster = cluster
        recipe = yaml.safe_load(self.recipe.read_text())
        recipe["cache"]["batch_size"] = 1
        recipe["distill"] |= {"max_steps": 40, "validation_rows": 64, "validate_every": 1000}
        recipe["finetune"]["models"]["interpolated"] = "{run}/distill_interpolated/chain/hf"
        self.recipe.write_text(yaml.safe_dump(recipe))

    def try_submit(
        self, *arguments: str, settings: str = "", teacher: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run submit.sh. settings: lines added to cluster.env."""
        environment = self.root / "cluster.env"
        environment.write_text(_CLUSTER_ENV + settings)
        recipe = self.teacher_recipe if teacher else self.recipe
        return subprocess.run(
            [REPOSITORY / "slurm" / "submit.sh", recipe, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={**self.cluster.environment, "MINIEND_CLUSTER_ENV": str(environment)},
        )

    def submit(self, *arguments: str, settings: str = "", teacher: bool = False) -> dict[str, str]:
        """Run submit.sh; return {artifact: job number} of the jobs that it submitted."""
        done = self.try_submit(*arguments, settings=settings, teacher=teacher)
        assert done.returncode == 0, done.stdout + done.stderr
        shown = re.findall(r"^(\d+) +(\S+)(.*)$", done.stdout, re.MULTILINE)
        return {key: job for job, key, rest in shown if "in the queue already" not in rest}

    def status(self) -> dict[str, list[str]]:
        """Return the lines of `miniend status`: {artifact: [state, rest of the line]}."""
        shown = self.cluster.run(
            PYTHON, "-m", "pipeline.cli", "status", str(self.run)
        ).stdout.splitlines()
        return {
            line.split()[0]: [line.split()[1], " ".join(line.split()[2:])] for line in shown[1:]
        }

    def copy(self, other: TinyRun, *artifacts: str) -> None:
        for name in artifacts:
            shutil.copytree(other.run / name, self.run / name)

    def hash(self, key: str) -> str:
        from pipeline.artifacts import Artifact

        return Artifact(self.run / key).manifest.content_hash()

    def log(self, pattern: str) -> str:
        """Return the text of the files below RUN/logs that match."""
        return "\n".join(path.read_text() for path in sorted((self.run / "logs").glob(pattern)))

    def steps(self, key: str) -> int:
        """Return the last optimiser step in the metrics of an artifact."""
        path = self.run / key / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
