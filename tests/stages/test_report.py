"""`miniend report` on tiny runs: finished, half finished, hostile; its page in a real browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.tiny_run import ENVIRONMENT, PYTHON, TinyRun

pytestmark = pytest.mark.slow
MODELS = ("teacher", "student")
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def compared(
    finished_run: TinyRun, few_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyRun:
    """The finished run with two models, two seeds and a baseline each on two kinds of task."""
    run = TinyRun(tmp_path_factory.mktemp("compared"), few_documents)
    shutil.copytree(finished_run.run, run.run)
    models = {name: f"{run.run}/distill/{name}/hf" for name in MODELS}
    rows = {part: str(few_documents) for part in ("train", "test")}
    lengths = {"source_length": 32, "target_length": 8, "test_rows": 40}
    topic = {
        "name": "topic",
        "kind": "classification",
        "source": "{extract}",
        "target": "{topic}",
        **rows,
        **lengths,
    }
    summary = {
        "name": "summary",
        "kind": "generation",
        "source": "{extract}",
        "target": "{description}",
        **rows,
        **lengths,
    }
    run.complete(
        "finetune",
        "finetune.name=wide",
        f"finetune.models={json.dumps(models)}",
        f"finetune.tasks={json.dumps([topic, summary])}",
        f"finetune.seeds={json.dumps(SEEDS)}",
        "finetune.baselines=[tfidf, lead]",
    )
    return run


def report(run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "pipeline.cli", "report", str(run), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)


class Page(HTMLParser):
    """Rows of the page's tables, its charts, and everything that could reach beyond the file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.charts: list[int] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self._cell = self._chart = self._small = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.add(tag)
        self.links += [
            value or ""
            for name, value in attributes
            if name in ("href", "src", "xlink:href", "action", "srcset")
        ]
        assert not any(name.startswith("on") for name in found), found
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True
        elif tag == "svg":
            self._chart = found.get("class") == "panel"
            if self._chart:
                self.charts.append(0)
        elif self._chart and {"marker", "line", "bar"} & set((found.get("class") or "").split()):
            self.charts[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data

    def row(self, *first: str) -> list[str]:
        return next(row for row in self.rows if tuple(row[: len(first)]) == first)


def test_the_stage_writes_a_report_whose_numbers_are_those_of_the_units(compared: TinyRun) -> None:
    root = compared.run / "finetune/wide"
    found = json.loads((root / "report.json").read_text())
    page = Page((root / "report.html").read_text(encoding="utf-8"))
    text = (root / "report.md").read_text(encoding="utf-8")
    assert found["missing"] == []
    assert found["warnings"] == []
    assert found["reference"] == "teacher"
    for task, metric, digits in (("topic", "accuracy", 3), ("summary", "rouge1", 2)):
        for model in MODELS:
            units = [
                json.loads((root / f"{task}/{model}/seed-{seed}/metrics.json").read_text())
                for seed in SEEDS
            ]
            shown = found["models"][model]["scores"][task]
            assert set(shown) == set(units[0]["scores"])
            assert shown[metric]["mean"] == pytest.approx(
                fmean(unit["scores"][metric] for unit in units)
            )
            assert shown[metric]["deviation"] is not None
            low, high = shown[metric]["interval"]
            assert low <= shown[metric]["mean"] <= high
            for where in (next(row for row in page.rows if row[0] == model), [text]):
                assert any(f"{shown[metric]['mean']:,.{digits}f} ±" in cell for cell in where)
        mean = {model: found["models"][model]["scores"][task][metric]["mean"] for model in MODELS}
        if mean["teacher"] > 0:
            assert found["models"]["student"]["retention"][task]["share"] == pytest.approx(
                mean["student"] / mean["teacher"]
            )
        pair = next(
            p
            for p in found["differences"]
            if p["task"] == task and {p["model"], p["against"]} == set(MODELS)
        )
        assert pair["difference"] == pytest.approx(mean[pair["model"]] - mean[pair["against"]])
    assert found["models"]["tfidf"]["baseline"]
    assert found["models"]["tfidf"]["scores"].keys() == {"topic"}
    assert found["models"]["lead"]["scores"].keys() == {"summary"}


def test_stages_and_curves_are_those_of_the_artifacts(compared: TinyRun) -> None:
    found = json.loads((compared.run / "finetune/wide/report.json").read_text())
    page = Page((compared.run / "finetune/wide/report.html").read_text(encoding="utf-8"))
    stages = {stage["artifact"]: stage for stage in found["stages"]}
    cache = json.loads((compared.run / "teacher_cache/teacher/manifest.json").read_text())
    assert stages["teacher_cache/teacher"]["bytes"] == cache["totals"]["bytes"]
    assert stages["teacher_cache/teacher"]["flops"] > 0
    student = stages["distill/student"]
    columns = json.loads((compared.run / "tokens/train/manifest.json").read_text())["shards"][0][
        "columns"
    ]
    width = columns["input_ids"]["row_shape"][0] + columns["labels"]["row_shape"][0]
    assert (student["steps"], student["rows"], student["tokens"]) == (12, 12 * 8, 12 * 8 * width)
    assert student["inputs"]["teacher"] == "distill/teacher"
    assert student["inputs"]["cache"] == "teacher_cache/teacher"
    assert (
        stages["distill_interpolated/chain"]["inputs"]["teacher"]
        == "distill_interpolated/chain.assistant-1"
    )
    assert "teacher" not in stages["distill/teacher"]["inputs"]
    assert student["flops"] > 0
    assert student["seconds"] > 0
    assert page.row("distill/student")[1] == "12"
    curves = {curve["artifact"]: curve for curve in found["curves"]}
    lines = [
        json.loads(line)
        for line in (compared.run / "distill/student/metrics.jsonl").read_text().splitlines()
    ]
    logged = [[line["step"], line["loss/lm"]] for line in lines if "loss/lm" in line]
    assert curves["distill/student"]["train"] == logged
    assert curves["distill/student"]["validation"][-1][1] == student["validation_loss"]
    assert curves["finetune/wide/topic/student/seed-0"]["scores"]["accuracy"]


def test_models_are_timed_together_at_batch_one_and_more(compared: TinyRun) -> None:
    found = json.loads((compared.run / "finetune/wide/report.json").read_text())
    for task, work in (("topic", "score"), ("summary", "generate 24 tokens")):
        timed = [line for model in MODELS for line in found["models"][model]["speed"][task]]
        assert {line["batch_size"] for line in timed} == {1, 16}
        assert len({line["session"] for line in timed}) == 1
        for line in timed:
            assert line["work"].startswith(work)
            assert line["quickest"] <= line["milliseconds"] <= line["slowest"]
            assert line["rows_per_second"] == pytest.approx(
                1e3 * line["batch_size"] / line["milliseconds"], rel=1e-2
            )


def test_the_page_stands_alone_and_every_chart_shows_something(compared: TinyRun) -> None:
    text = (compared.run / "finetune/wide/report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert not page.tags & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "image",
        "use",
    }
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert (
        len(page.charts) >= 2 + 2 * 3 + 4 + 2 * 2
    )  # retention, size and speed, pretraining, fine-tuning
    assert all(page.charts), page.charts


def test_a_run_half_finished_is_reported_and_says_what_is_missing(
    compared: TinyRun, tmp_path: Path
) -> None:
    run = tmp_path / "half"
    shutil.copytree(compared.run, run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "distill_interpolated/chain/manifest.json").unlink()
    (run / "finetune/wide/topic/student/seed-1/manifest.json").unlink()
    shutil.rmtree(run / "finetune/wide/summary/student")
    whole = json.loads((run / "finetune/wide/report.json").read_text())
    done = report(run, "--name", "wide", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/report.json").read_text())
    said = "\n".join(found["missing"])
    assert "distill_interpolated/chain is not finished" in said
    assert "task summary is not finished for student" in said
    assert "task topic has fewer seeds for student" in said
    assert all(line in (tmp_path / "out/report.html").read_text() for line in found["missing"])
    assert found["models"]["student"]["scores"].keys() == {"topic"}
    assert found["models"]["teacher"]["scores"] == whole["models"]["teacher"]["scores"]
    assert "summary" not in found["models"]["student"]["retention"]


def test_a_run_without_fine_tuning_shows_its_stages(cached_run: TinyRun, tmp_path: Path) -> None:
    done = report(cached_run.run, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert "model student is not there" in "\n".join(found["missing"])
    page = Page((tmp_path / "report.html").read_text())
    assert page.row("teacher_cache/teacher")
    assert len(page.charts) == 1  # the teacher's loss
    assert all(page.charts)


def test_what_a_file_says_never_becomes_markup(compared: TinyRun) -> None:
    from pipeline.report.markdown import markdown
    from pipeline.report.page import page

    found = json.loads((compared.run / "finetune/wide/report.json").read_text())
    before = Page(page(found))
    hostile = "<img src=x onerror=alert(1)>\"'|](http://x.test)"
    harmed: Any = copy.deepcopy(found)
    harmed["models"] = {
        hostile if name == "student" else name: row for name, row in found["models"].items()
    }
    for pair in harmed["differences"]:
        pair.update({side: hostile for side in ("model", "against") if pair[side] == "student"})
    harmed["tasks"] = {
        hostile if task == "topic" else task: info for task, info in found["tasks"].items()
    }
    harmed["stages"][0]["artifact"] = harmed["curves"][0]["artifact"] = harmed["run"] = harmed[
        "name"
    ] = hostile
    harmed["missing"] = harmed["warnings"] = [hostile]
    after = Page(page(harmed))
    assert after.tags <= before.tags | {"ul", "li", "strong"}
    assert all(link.startswith("#") for link in after.links)
    assert any(hostile in cell for row in after.rows for cell in row)
    text = markdown(harmed)
    assert "<img" not in text
    assert "](http" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "narrow"], "has no comparison 'narrow'; it has comparison, wide"),
        ([], "is not a run"),
    ],
)
def test_a_users_mistake_is_one_line(
    compared: TinyRun, tmp_path: Path, options: list[str], message: str
) -> None:
    done = report(compared.run if options else tmp_path, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def chromium() -> list[str]:
    program = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if program is None:
        pytest.skip("no chromium here to look at the page with")
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run "
        "--disable-background-networking --disable-component-update"
    )
    return [
        program,
        *flags.split(),
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
        "--enable-logging=stderr",
    ]


def test_a_browser_shows_the_page_at_phone_width(
    compared: TinyRun, chromium: list[str], tmp_path: Path
) -> None:
    shutil.copy(compared.run / "finetune/wide/report.html", tmp_path)
    (tmp_path / "frame.html").write_text(
        "<iframe id=f src=report.html style='width:390px;height:844px;border:0'></iframe>"
        "<pre id=out></pre><script>"
        "f.onload = () => { const d = f.contentDocument;"
        "const all = q => [...d.querySelectorAll(q)];"
        "out.textContent = JSON.stringify({width: d.documentElement.scrollWidth,"
        "charts: all('svg.panel').map(s => s.clientWidth),"
        "text: Math.min(...all('svg.panel text').map(t => t.getBoundingClientRect().height))}) }"
        "</script>"
    )
    command = [
        *chromium,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"file://{tmp_path / 'frame.html'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = re.search(r"<pre id=\"out\">(\{.*\})</pre>", done.stdout)
    assert said is not None, done.stderr[-2000:]
    seen = json.loads(said[1])
    assert seen["width"] <= 390, "the page scrolls sideways"
    assert seen["charts"]
    assert min(seen["charts"]) > 300
    assert seen["text"] > 9, "type in a chart is too small to read"
    assert "CONSOLE" not in done.stderr, done.stderr
