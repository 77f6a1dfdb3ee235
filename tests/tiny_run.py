"""A whole run small enough for tests: real stages on a few hundred real articles, one to two blocks
a stack, a few steps."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import yaml

from tests import forked
from tests.forked import ENVIRONMENT as ENVIRONMENT
from tests.forked import PYTHON, REPOSITORY, Ranks, Started

#: Where each stage of the run leaves its artifact, below the run's directory; in the order the
#: stages run.
ARTIFACTS = {
    "tokenize_corpus": ("tokens/tokenizer", "tokens/validation", "tokens/train"),
    "teacher": ("distill/teacher",),
    "cache_teacher": ("teacher_cache/teacher",),
    "distill": ("distill/student",),
    "distill_interpolated": (
        "distill_interpolated/chain.assistant-1",
        "teacher_cache/chain.assistant-1",
        "distill_interpolated/chain",
    ),
    "finetune": ("finetune/comparison/topic/student/seed-0",),
}


def write_few_documents(wiki: Path, path: Path) -> Path:
    """Copy 300 documents, spread over all topics, from the wiki's file to `path`; returns it."""
    with open(wiki, encoding="utf-8") as handle:
        path.write_text("".join(list(handle)[::33][:300]), encoding="utf-8")
    return path


class TinyRun:
    """Writes the recipes of a run below `root` and starts its stages as a user would."""

    def __init__(self, root: Path, documents: Path) -> None:
        self.root, self.run = root, root / "run"
        self.recipe, self.teacher_recipe = root / "recipe.yaml", root / "teacher.yaml"
        training = {
            "max_steps": 12,
            "batch_size": 8,
            "learning_rate": 2.0e-3,
            "warmup_steps": 2,
            "log_every": 2,
            "save_every": 3,
            "validate_every": 6,
            "deepspeed": str(REPOSITORY / "ds_configs" / "zero3_cpu.json"),
        }
        recipe = {
            "run": str(self.run),
            "corpus": {
                "sources": [str(documents)],
                "text": "extract",
                "key": "title",
                "split": {"validation": 0.1, "test": 0.1},
            },
            "tokenizer": {"vocab_size": 600, "sentinels": 40},
            "tokens": {"input_length": 64, "documents_per_shard": 40, "views": 2},
            "teacher": {"model": "{run}/distill/teacher/hf"},
            "cache": {"batch_size": 16},
            "student": {"encoder_layers": 1, "decoder_layers": 1, "init": "layers"},
            "distill": training | {"objective": {"preset": "miniend"}, "validation_rows": 16},
            "interpolated": {"name": "chain", "assistants": 1},
            "finetune": training
            | {
                "max_steps": 9,
                "deepspeed": str(REPOSITORY / "ds_configs" / "zero2_finetune.json"),
                "models": {"student": "{run}/distill/student/hf"},
                "tasks": [
                    {
                        "name": "topic",
                        "kind": "classification",
                        "train": str(documents),
                        "test": str(documents),
                        "source": "topic: {extract}",
                        "target": "{topic}",
                        "drop_labels": ["Uncategorized"],
                        "source_length": 48,
                        "target_length": 8,
                        "test_rows": 40,
                    }
                ],
            },
        }
        teacher = {
            "extends": "recipe.yaml",
            "teacher": None,
            "student": {
                "encoder_layers": 3,
                "decoder_layers": 3,
                "d_model": 32,
                "d_ff": 64,
                "num_heads": 2,
                "d_kv": 16,
                "init": "random",
            },
            "distill": {"name": "teacher", "objective": {"preset": "lm"}},
        }
        root.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(yaml.safe_dump(recipe))
        self.teacher_recipe.write_text(yaml.safe_dump(teacher))

    def command(self, stage: str, *overrides: str) -> list[str]:
        """The command line of a stage; the stage "teacher" is distill.py with the teacher's
        recipe."""
        script = "distill" if stage == "teacher" else stage
        recipe = self.teacher_recipe if stage == "teacher" else self.recipe
        return [
            PYTHON,
            str(REPOSITORY / "stages" / f"{script}.py"),
            "--recipe",
            str(recipe),
            *overrides,
        ]

    def stage(self, stage: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        """Run a stage to its end, in a fork."""
        return forked.run(self.command(stage, *overrides))

    def start(self, stage: str, *overrides: str) -> Started:
        return forked.start(self.command(stage, *overrides))

    def ranks(self, world: int, stage: str, *overrides: str) -> Ranks:
        """Start a stage on `world` ranks."""
        return Ranks(self.command(stage, *overrides), world)

    def logging(self, stage: str, artifact: str, lines: int, *overrides: str) -> Started:
        """Start a training stage that logs every step, and return once its artifact has `lines`
        lines of metrics."""
        process = self.start(stage, f"{stage}.log_every=1", *overrides)
        metrics, deadline = self.run / artifact / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= lines):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return process

    def complete(self, stage: str, *overrides: str, fresh: bool = False) -> None:
        """Run a stage, which must end well. fresh: as a process of its own, with another hash seed
        than the forks'."""
        done = forked.run(self.command(stage, *overrides), fresh=fresh)
        assert done.returncode == 0, f"{stage} failed:\n{done.stdout}\n{done.stderr}"

    def hashes(self, stage: str) -> dict[str, str]:
        """Content hash of each artifact of a finished stage."""
        from pipeline.artifacts import Artifact

        return {
            name: Artifact(self.run / name).manifest.content_hash() for name in ARTIFACTS[stage]
        }
