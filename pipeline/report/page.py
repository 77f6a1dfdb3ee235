"""The report as one HTML file that opens from disk: no script, nothing fetched, text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from pipeline.report import model_tables, readable, stage_tables
from pipeline.report.charts import curves, scores
from pipeline.report.charts.marker import COLOURS, marker
from pipeline.report.charts.series import model_series, part_series
from pipeline.report.document import Report
from pipeline.report.markup import Markup, el, join, text
from pipeline.report.table import Table

#: Even a file that was tampered with runs no script and contacts no host.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def page(report: Report) -> str:
    """Return the whole HTML document."""
    sections = [
        ("models", "Models at a glance", _models(report)),
        ("tasks", "Results by task", _tasks(report)),
        ("size-and-speed", "Quality against size and speed", _size_and_speed(report)),
        ("cost", "Training cost", _cost(report)),
        ("curves", "Loss curves", _curves(report)),
        ("lineage", "Lineage", _table(report, stage_tables.lineage(report))),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    anchors = [el("a", title, href=f"#{key}") for key, title, _ in shown]
    navigation = el("nav", *anchors, aria_label="Sections")
    body = el(
        "body",
        el("header", *_header(report), navigation, *_notices(report)),
        el("main", *(el("section", el("h2", title), body, id=key) for key, title, body in shown)),
        el(
            "footer",
            f"Written by miniend {report['version']}. "
            "report.json, next to this file, holds the same numbers.",
        ),
    )
    return f"<!doctype html>\n{el('html', _head(report), body, lang='en')}\n"


def _head(report: Report) -> Markup:
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", f"{report['name']} · {report['run']}"),
        el("style", Markup(_style())),
    )


def _style() -> str:
    return resources.files("pipeline.report").joinpath("page.css").read_text(encoding="utf-8")


def _header(report: Report) -> list[Markup]:
    models = [name for name, row in report["models"].items() if not row["baseline"]]
    baselines = len(report["models"]) - len(models)
    rows = report["models"].values()
    seeds = {len(how["seeds"]) for row in rows for how in row["training"].values()} - {0}
    counts = [_count(len(models), "model"), _count(len(report["tasks"]), "task")]
    if baselines:
        counts.append(_count(baselines, "baseline"))
    if seeds:
        counts.append(_count(max(seeds), "seed"))
    return [
        el("p", "MiniEnD report", class_="kind"),
        el("h1", report["run"], el("span", " / ", class_="slash"), report["name"]),
        el("p", ", ".join(counts), class_="lede"),
    ]


def _notices(report: Report) -> list[Markup]:
    parts = []
    for title, lines in (("Not there yet", report["missing"]), ("Take care", report["warnings"])):
        if lines:
            entries = el("ul", *(el("li", line) for line in lines))
            parts.append(el("div", el("strong", title), entries, class_="care", role="note"))
    return parts


def _models(report: Report) -> Markup:
    bars = scores.retention(report)
    note = el(
        "p",
        "Bars: score ÷ that of the reference on the task’s own metric; whiskers: 95% by bootstrap "
        "over the test rows, the same resamples for both.",
        class_="note",
    )
    return join(
        _tiles(report),
        _table(report, model_tables.overview(report)),
        *([_panels(bars), note] if bars else []),
    )


def _tiles(report: Report) -> Markup | None:
    """Return one tile a smaller model, with what it retains and what it gains."""
    tiles, series = [], model_series(report)
    for name, row in report["models"].items():
        shares = {task: retained["share"] for task, retained in row["retention"].items()}
        if row["baseline"] or not shares:
            continue
        retained = ", ".join(f"{task} {readable.percent(share)}" for task, share in shares.items())
        gains = [f"{row['compression']:.2f}× smaller"] if row["compression"] else []
        for task, factor in _speed_ups(report, name).items():
            faster = f"{factor:.2f}× faster" if factor >= 1 else f"{1 / factor:.2f}× slower"
            gains.append(f"{faster} on {task}")
        tiles.append(
            el(
                "div",
                el("div", _sign(series[name]), name, class_="who"),
                el("div", readable.percent(sum(shares.values()) / len(shares)), class_="big"),
                el("p", f"of {report['reference']} retained: {retained}"),
                el("p", "; ".join(gains)),
                class_="tile",
            )
        )
    return el("div", *tiles, class_="tiles") if tiles else None


def _speed_ups(report: Report, model: str) -> dict[str, float]:
    """Return {task: latency of the reference ÷ that of `model`}, for one row alone."""
    if report["reference"] is None:
        return {}
    reference, factors = report["models"][report["reference"]], {}
    for task in report["tasks"]:
        one = model_tables.single_row(report["models"][model], task)
        base = model_tables.single_row(reference, task)
        if one and base and model_tables.comparable(one, base):
            factors[task] = base["milliseconds"] / one["milliseconds"]
    return factors


def _tasks(report: Report) -> Markup:
    parts: list[Markup | None] = []
    for task in report["tasks"]:
        task_scores = model_tables.scores(report, task)
        pairs = model_tables.differences(report, task)
        if task_scores.rows:
            parts += [el("h3", task_scores.title), _table(report, task_scores)]
        if pairs.rows:
            summary = el("summary", f"Differences between models on {task}")
            parts.append(el("details", summary, _table(report, pairs)))
    return join(*parts)


def _size_and_speed(report: Report) -> Markup:
    panels = [scores.quality_against(report, task) for task in report["tasks"]]
    parts = [_panels(of_task) for of_task in panels if of_task]
    speed = _titled(report, model_tables.speed(report))
    if not parts:
        return join(speed)
    note = el(
        "p",
        "Whiskers: 95% by bootstrap over the test rows. Models of about the same size or speed "
        "stand side by side. Dashed lines and names at the edge: baselines, which have no weights.",
        class_="note",
    )
    return join(_key(_weighted_models(report)), *parts, note, speed)


def _cost(report: Report) -> Markup:
    tables = (stage_tables.totals(report), stage_tables.cost(report))
    return join(*(_titled(report, table) for table in tables))


def _titled(report: Report, table: Table) -> Markup | None:
    return join(el("h3", table.title), _table(report, table)) if table.rows else None


def _curves(report: Report) -> Markup:
    distilled, parts = curves.pretraining(report), curves.objective_parts(report)
    tuned = [panel for task in report["tasks"] for panel in curves.fine_tuning(report, task)]
    groups: list[Markup] = []
    if distilled:
        early = "The first tenth of the logged steps may lie above the panels."
        title = el("h3", "Pretraining and distillation")
        groups += [title, _line_key(), _panels(distilled), el("p", early, class_="note")]
    if parts:
        title = el("h3", "Parts of the objective, unweighted")
        groups += [title, _key(part_series(report)), _panels(parts)]
    if tuned:
        groups += [el("h3", "Fine-tuning"), _key(_weighted_models(report)), _panels(tuned)]
    return join(*groups)


def _panels(panels: Sequence[Markup]) -> Markup:
    return el("div", *panels, class_="panels")


def _table(report: Report, table: Table) -> Markup | None:
    if not table.rows:
        return None
    series = model_series(report)
    head = [
        el("th", heading, scope="col", class_="words" if table.is_text(column) else None)
        for column, heading in enumerate(table.headings())
    ]
    rows = []
    for first, *others in table.rows:
        sign = _sign(series[first]) if table.header[0] == "model" and first in series else None
        cells = [
            el("td", _cell(cell), class_=_kind(cell) if table.is_text(column) else None)
            for column, cell in enumerate(others, 1)
        ]
        rows.append(el("tr", el("th", sign, first, scope="row"), *cells))
    body = el("table", el("thead", el("tr", *head)), el("tbody", *rows))
    box = el("div", body, class_="scroll", role="region", tabindex=0, aria_label=table.title)
    return join(box, el("p", table.note, class_="note") if table.note else None)


def _kind(cell: str) -> str:
    return "words long" if len(cell) > 26 else "words"


def _cell(value: str) -> Markup:
    """Return a cell with its interval in small type below the number."""
    number, bracket, ends = value.partition(" [")
    if bracket and ends.endswith("]"):
        return join(number, el("span", f"{bracket}{ends}", class_="ends"))
    return Markup(text(value).replace("/", "/<wbr>"))  # a path may break after a directory


def _weighted_models(report: Report) -> dict[str, int]:
    """Return the series of the models that have weights: all but the baselines."""
    models = report["models"]
    return {name: i for name, i in model_series(report).items() if not models[name]["baseline"]}


def _key(series: Mapping[str, int]) -> Markup:
    return el("ul", *(el("li", _sign(index), name) for name, index in series.items()), class_="key")


def _line_key() -> Markup:
    kinds = {
        "train": "training",
        "validation": "validation",
        "ghost": "training of the others",
    }
    entries = [el("li", _line_sign(kind), name) for kind, name in kinds.items()]
    return el("ul", *entries, class_="key")


def _sign(series: int) -> Markup:
    return el("svg", marker(8, 8, series), viewBox="0 0 16 16", class_="sign", aria_hidden="true")


def _line_sign(kind: str) -> Markup:
    line = el("path", d="M1 8H29", class_=f"line {kind} s{1 % COLOURS}")
    dot = marker(15, 8, 1, 4.5) if kind == "validation" else None
    return el("svg", line, dot, viewBox="0 0 30 16", class_="sign wide", aria_hidden="true")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
