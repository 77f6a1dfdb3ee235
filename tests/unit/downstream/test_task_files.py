"""tasks/*.yaml against files in the published schema of each set, word for word as T5 was
trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.downstream.task_metrics import evaluate, pair_predictions
from pipeline.downstream.tasks import load_task
from pipeline.downstream.unit_record import overlap, stray
from pipeline.errors import ConfigError, DataError
from pipeline.recipe import Task, load_recipe
from tests.published import SCHEMAS, SUMMARIES, write_published

FILES = sorted(Path("tasks").glob("*.yaml"))
DOCUMENTS = [
    {
        "title": f"Title {n}",
        "extract": f"First text {'x' * (n % 7)} number {n}.",
        "description": f"second text {n}",
    }
    for n in range(24)
]
#: Source and target of the first document (Raffel et al. 2020, appendix D).
WORDED = {
    "cola": ("cola sentence: {0}", "acceptable"),
    "sst2": ("sst2 sentence: {0}", "positive"),
    "mrpc": ("mrpc sentence1: {0} sentence2: {1}", "equivalent"),
    "stsb": ("stsb sentence1: {0} sentence2: {1}", "2.0"),
    "qqp": ("qqp question1: {0} question2: {1}", "duplicate"),
    "mnli": ("mnli hypothesis: {1} premise: {0}", "entailment"),
    "qnli": ("qnli question: {0} sentence: {1}", "not_entailment"),
    "rte": ("rte sentence1: {0} sentence2: {1}", "not_entailment"),
    "cnn_dailymail": ("summarize: {0}", "Title 0 .\nsecond text 0 ."),
    "xsum": ("summarize: {0}", "second text 0"),
    "samsum": ("summarize: {0}", "second text 0"),
}


def local(name: str, root: Path, **changes: Any) -> dict[str, Any]:
    """An entry of finetune.tasks: the task file with the published rows in local files."""
    suffix = "csv" if name == "samsum" else "parquet"
    file = write_published(name, root / f"{name}.{suffix}", DOCUMENTS)
    more = {"more_tests": {"mismatched": file}} if name == "mnli" else {}
    return (
        {"file": f"tasks/{name}.yaml", "train": file, "validation": None, "test": file}
        | more
        | changes
    )


def recipe(root: Path, *tasks: Any) -> Path:
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump({"run": str(root / "run"), "finetune": {"tasks": list(tasks)}}))
    return path


def task_of(root: Path, entry: Any) -> Task:
    return load_recipe(recipe(root, entry)).finetune.tasks[0]


def test_every_task_of_the_list_has_a_file() -> None:
    assert {path.stem for path in FILES} == set(SCHEMAS) == set(WORDED)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_published_rows_become_what_t5_reads(name: str, tmp_path: Path) -> None:
    data = load_task(task_of(tmp_path, local(name, tmp_path)), 4)
    source, target = WORDED[name]
    texts = [DOCUMENTS[0][column] for column in ("extract", "description")]
    assert (data.test.sources[0], data.test.targets[0]) == (source.format(*texts), target)
    assert (data.labels is None) == (name in SUMMARIES)
    # A model that is always right has the best scores; overlap is found (train and test are one
    # file here).
    found = pair_predictions(data.task, data.test.rows, data.test.targets, data.test.references)
    best = 100.0 if name in SUMMARIES else 1.0
    assert evaluate(data.task, found, data.labels[-1] if data.labels else None) == pytest.approx(
        dict.fromkeys(data.task.metrics, best), abs=0.06
    )
    assert overlap(data)["train_test"] == len(data.train)
    assert stray(
        data, pair_predictions(data.task, data.test.rows, ["nonsense"] * 24, data.test.references)
    ) == (0 if name in SUMMARIES else 24)


def test_numbers_are_rounded_for_training_and_whole_for_scoring(tmp_path: Path) -> None:
    data = load_task(task_of(tmp_path, local("stsb", tmp_path)), 4)
    assert data.labels is not None
    assert data.labels[:3] == ["0.0", "0.2", "0.4"]
    assert len(data.labels) == 26
    assert data.test.references[2] == pytest.approx(2.3)
    assert data.test.targets[2] == "2.4"
    centred = task_of(
        tmp_path, local("stsb", tmp_path, values={"low": -4, "high": 4, "step": 0.5})
    ).values
    assert centred is not None
    assert [centred.text(value) for value in (-4, -0.1, 0.26, 9)] == ["-4.0", "0.0", "0.5", "4.0"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cola", {"labels": {0: "unacceptable"}}, "two or more different labels"),
        (
            "cola",
            {"labels": {0: "no", 2: "yes"}},
            r"row 1 of .*cola.parquet has label '1', which is none of no, yes",
        ),
        (
            "cola",
            {"source": "cola sentence: {text}"},
            "column 'text', but row 1 of .* has sentence, label, idx",
        ),
        (
            "stsb",
            {"values": {"low": 0, "high": 1}},
            r"row 1 of .* has 2\.1, which is outside 0 to 1: widen `values`",
        ),
        ("stsb", {"target": "{sentence1}"}, "which is no number"),
    ],
)
def test_wrong_rows_are_one_line(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_task(task_of(tmp_path, local(name, tmp_path, **changes)), 4)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("tasks/none.yaml", r"task tasks/none.yaml does not exist"),
        (
            {"file": "tasks/cola.yaml", "metrics": ["rouge1"]},
            "task cola: rouge1 does not measure a classification",
        ),
        (
            {"file": "tasks/cola.yaml", "positive": "good"},
            "positive 'good' is none of unacceptable, acceptable",
        ),
        ({"file": "tasks/stsb.yaml", "values": None}, "belongs to a regression"),
        ({"file": "tasks/cola.yaml", "sauce": "x"}, r"did you mean finetune.tasks.0.source\?"),
    ],
)
def test_a_wrong_task_is_refused_with_the_recipe(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe(tmp_path, entry))


def test_a_file_that_changes_while_it_is_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.corpus.source_identity import source_hash
    from pipeline.downstream import tasks as module

    task = task_of(tmp_path, local("cola", tmp_path))
    source_hash(task.train)
    real = module.read_rows

    def read_and_change(source: str, part: str) -> Any:
        rows = real(source, part)
        write_published("cola", Path(source), DOCUMENTS[:5])
        return rows

    monkeypatch.setattr(module, "read_rows", read_and_change)
    with pytest.raises(DataError, match="changed while this run was reading it"):
        load_task(task, 4)
