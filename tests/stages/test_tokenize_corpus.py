"""The real script on real text: killed, shared, repeated and misused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.artifacts import Artifact
from pipeline.corpus.documents import iter_split
from pipeline.recipe import Corpus
from tests import forked

SCRIPT = str(Path(__file__).resolve().parents[2] / "stages" / "tokenize_corpus.py")
PARTS = ("tokenizer", "train", "validation")


def command(recipe: Path, run: Path, *overrides: str) -> list[str]:
    return [sys.executable, SCRIPT, "--recipe", str(recipe), f"run={run}", *overrides]


def stage(recipe: Path, run: Path, *overrides: str, code: int = 0) -> str:
    """Run the stage from another directory and return its output."""
    done = forked.run(command(recipe, run, *overrides), directory=recipe.parent)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def hashes(run: Path) -> list[str]:
    return [Artifact(run / "tokens" / part).manifest.content_hash() for part in PARTS]


@pytest.fixture(scope="module")
def recipe(few_documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    corpus = {
        "sources": [str(few_documents)],
        "text": "extract",
        "key": "title",
        "split": {"validation": 0.1},
    }
    tokens = {"input_length": 64, "views": 4, "documents_per_shard": 8}
    tokenizer = {"vocab_size": 900, "sentinels": 10}
    path.write_text(
        json.dumps({"run": "run", "corpus": corpus, "tokens": tokens, "tokenizer": tokenizer})
    )
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> Path:
    run = recipe.parent / "undisturbed"
    said = stage(recipe, run)
    assert "tokens/train: " in said
    assert " tokens/s)" in said
    return run


def test_the_examples_hold_the_text(recipe: Path, undisturbed: Path, few_documents: Path) -> None:
    from pipeline.corpus.tokenizer import load_tokenizer

    train = Artifact(undisturbed / "tokens" / "train", "tokens")
    assert train.manifest.totals["rows"] == sum(shard.rows for shard in train.shards) > 500
    assert train.shards[0].columns["input_ids"].dtype == "uint16"
    assert len(train.shards) % 4 == 0
    tokenizer = load_tokenizer(undisturbed / "tokens" / "tokenizer" / "hf")
    corpus = Corpus.model_validate(
        {
            "sources": [str(few_documents)],
            "text": "extract",
            "key": "title",
            "split": {"validation": 0.1},
        }
    )
    expected = tokenizer(next(iter_split(corpus, "train")).text, add_special_tokens=False)[
        "input_ids"
    ]
    rows = [train.rows(shard, slice(0, 1), ["input_ids", "labels"]) for shard in range(4)]
    for row in rows:
        spans: dict[int, list[int]] = {}
        for token in row["labels"][0].tolist()[:-1]:
            if token >= 900:
                last = spans.setdefault(token, [])
            else:
                last.append(token)
        found = [
            t for token in row["input_ids"][0].tolist()[:-1] for t in spans.get(token, [token])
        ]
        count = min(len(found), len(expected))
        assert found[:count] == expected[:count]
    # The views are different corruptions of it.
    assert len({tuple(row["input_ids"][0].tolist()) for row in rows}) == 4


@pytest.mark.parametrize("moment", ["tokenizer", "shards"])
def test_killed_and_started_again_gives_the_same(
    recipe: Path, undisturbed: Path, tmp_path: Path, moment: str
) -> None:
    tokens = tmp_path / "tokens"
    sign = (
        tokens / "tokenizer" / "hf"
        if moment == "tokenizer"
        else tokens / "train" / "shards" / "00000.json"
    )
    process = forked.start(command(recipe, tmp_path))
    while not sign.exists():
        assert process.poll() is None, "the stage ended before it could be killed"
        time.sleep(0.0005)
    process.kill()
    process.wait()
    made = len(list(tokens.glob("train/shards/*.json")))
    assert not (tokens / "train" / "manifest.json").exists()
    assert made < len(Artifact(undisturbed / "tokens" / "train").shards)
    assert made > 0 or moment == "tokenizer"
    before = {path: path.stat().st_mtime_ns for path in tokens.glob("train/shards/*.json")}
    stage(recipe, tmp_path)
    assert hashes(tmp_path) == hashes(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in before} == before, (
        "finished shards were made again"
    )


def test_two_processes_make_the_same(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    launched = [
        forked.start(command(recipe, tmp_path), os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"})
        for rank in (1, 0)
    ]
    assert [process.wait(timeout=120) for process in launched] == [0, 0]
    assert hashes(tmp_path) == hashes(undisturbed)


def test_when_complete_it_says_so_at_once(recipe: Path, undisturbed: Path) -> None:
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(
        command(recipe, undisturbed), capture_output=True, text=True, env=environment, check=True
    )
    assert "tokens/train is up to date" in done.stdout
    heavy = {"torch", "transformers", "datasets", "sentencepiece", "numpy", "pyarrow"}
    assert not heavy & {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}


def test_one_lost_shard_is_made_again(recipe: Path, undisturbed: Path) -> None:
    expected = hashes(undisturbed)
    shards = undisturbed / "tokens" / "train" / "shards"
    (shards / "00005.json").unlink()
    (shards / "00005.safetensors").write_bytes(b"damaged")
    stage(recipe, undisturbed)
    assert hashes(undisturbed) == expected
    Artifact(undisturbed / "tokens" / "train").verify_shard(5)


def test_an_existing_tokenizer_is_copied(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    hf = undisturbed / "tokens" / "tokenizer" / "hf"
    stage(recipe, tmp_path, f"tokenizer.path={hf}", "tokens.documents_per_shard=500")
    again = (
        Artifact(tmp_path / "tokens" / "train")
        .rows(0, slice(0, 1), ["input_ids"])["input_ids"]
        .tolist()
    )
    first = (
        Artifact(undisturbed / "tokens" / "train")
        .rows(0, slice(0, 1), ["input_ids"])["input_ids"]
        .tolist()
    )
    assert again == first


def test_another_recipe_is_refused(recipe: Path, undisturbed: Path) -> None:
    said = stage(recipe, undisturbed, "tokens.views=2", code=2)
    assert "was made from something else (settings.views: 4 -> 2)" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["corpus.split.validation=0"], "corpus.split.validation is 0"),
        (
            ["corpus.split.validation=0.0001"],
            "tokens/validation: 0 documents hold 0 tokens, but one example needs 70: raise",
        ),
        (["tokens.input_length=128", "tokenizer.sentinels=3"], "set tokenizer.sentinels=7"),
        (
            ["corpus.sources=[empty.jsonl]"],
            "tokens/train: 0 documents hold 0 tokens, but one example needs 70: add text",
        ),
        (["tokenizer.vocab_size=90000"], "set tokenizer.vocab_size="),
        (["corpus.text=body"], "few.jsonl:1: no field 'body'"),
    ],
)
def test_a_mistake_gets_one_line(
    recipe: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    (recipe.parent / "empty.jsonl").write_text("\n")
    out = stage(recipe, tmp_path / "run", *overrides, code=2)
    assert said in out
    assert out.count("\n") == 1, out
    assert not (tmp_path / "run").exists()


def test_blocks_without_an_example_are_refused(recipe: Path, tmp_path: Path) -> None:
    out = stage(
        recipe,
        tmp_path,
        "tokens.documents_per_shard=1",
        "tokens.input_length=700",
        "tokenizer.sentinels=60",
        code=2,
    )
    assert "but one example needs 777: raise tokens.documents_per_shard (now 1)" in out


def test_help_explains_the_stage(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "--recipe FILE" in done.stdout
    assert "corpus.split.validation" in done.stdout
