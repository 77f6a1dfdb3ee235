"""The report as one HTML file that opens from disk: no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from pipeline.report import charts, links, tables, words
from pipeline.report.document import Report
from pipeline.report.markup import Markup, el, join, text
from pipeline.report.panel import COLOURS, marker
from pipeline.report.table import Table

#: A file that was tampered with still runs no script and asks no host.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(report: Report) -> str:
    sections = [
        ("models", "Models at a glance", _models(report)),
        ("tasks", "Results by task", _tasks(report)),
        ("size-and-speed", "Quality against size and speed", _size_and_speed(report)),
        (
            "cost",
            "Training cost",
            join(*(_titled(report, table) for table in (links.totals(report), links.cost(report)))),
        ),
        ("curves", "Loss curves", _curves(report)),
        ("lineage", "Lineage", _table(report, links.lineage(report))),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    anchors = [el("a", title, href=f"#{key}") for key, title, _ in shown]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", f"{report['name']} · {report['run']}"),
        el("style", Markup(_style())),
    )
    body = el(
        "body",
        el(
            "header",
            *_header(report),
            el("nav", *anchors, aria_label="Sections"),
            *_notices(report),
        ),
        el("main", *(el("section", el("h2", title), body, id=key) for key, title, body in shown)),
        el(
            "footer",
            f"Written by miniend {report['version']}. The same numbers stand in report.json beside this file.",
        ),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _style() -> str:
    return resources.files("pipeline.report").joinpath("page.css").read_text(encoding="utf-8")


def _header(report: Report) -> list[Markup]:
    models = [name for name, row in report["models"].items() if not row["baseline"]]
    baselines = len(report["models"]) - len(models)
    seeds = {
        len(how["seeds"]) for row in report["models"].values() for how in row["training"].values()
    } - {0}
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
    bars = charts.retention(report)
    return join(
        _tiles(report),
        _table(report, tables.overview(report)),
        _panels(bars) if bars else None,
        el("p", "Bars: score ÷ that of the reference on the task’s own metric; whiskers: 95% by bootstrap over the test rows, "
           "the same resamples for both.", class_="note") if bars else None,
    )  # fmt: skip


def _tiles(report: Report) -> Markup | None:
    """What each smaller model keeps and gains, in one look."""
    tiles, series = [], charts.series_of(report)
    for name, row in report["models"].items():
        shares = [found["share"] for found in row["retention"].values()]
        if row["baseline"] or not shares:
            continue
        kept = ", ".join(
            f"{task} {words.percent(found['share'])}" for task, found in row["retention"].items()
        )
        gains = [f"{row['compression']:.2f}× smaller"] if row["compression"] else []
        for task, factor in _faster(report, name).items():
            gains.append(
                f"{factor:.2f}× faster on {task}"
                if factor >= 1
                else f"{1 / factor:.2f}× slower on {task}"
            )
        tiles.append(
            el(
                "div",
                el("div", _sign(series[name]), name, class_="who"),
                el("div", words.percent(sum(shares) / len(shares)), class_="big"),
                el("p", f"of {report['reference']} retained: {kept}"),
                el("p", "; ".join(gains)),
                class_="tile",
            )
        )
    return el("div", *tiles, class_="tiles") if tiles else None


def _faster(report: Report, model: str) -> dict[str, float]:
    """Task → latency of the reference ÷ that of `model`, one row alone."""
    found = {}
    reference = report["models"][report["reference"]] if report["reference"] else None
    for task in report["tasks"]:
        mine = tables.single_row(report["models"][model], task)
        theirs = tables.single_row(reference, task) if reference is not None else None
        if mine and theirs and tables.comparable(mine, theirs):
            found[task] = theirs["milliseconds"] / mine["milliseconds"]
    return found


def _tasks(report: Report) -> Markup:
    parts: list[Markup | None] = []
    for task in report["tasks"]:
        scores, pairs = tables.scores(report, task), tables.differences(report, task)
        if scores.rows:
            parts += [el("h3", scores.title), _table(report, scores)]
        if pairs.rows:
            parts.append(
                el(
                    "details",
                    el("summary", f"Differences between models on {task}"),
                    _table(report, pairs),
                )
            )
    return join(*parts)


def _size_and_speed(report: Report) -> Markup:
    parts = []
    for task in report["tasks"]:
        panels = charts.quality_against(report, task)
        if panels:
            parts.append(_panels(panels))
    measured = tables.speed(report)
    if not parts and not measured.rows:
        return Markup("")
    key = _key(_models_of(report)) if parts else None
    note = el(
        "p",
        "Whiskers: 95% by bootstrap over the test rows. Models of about the same size or speed stand side by side. "
        "Dashed lines and names at the edge: baselines, which have no weights.",
        class_="note",
    )
    return join(key, *parts, note if parts else None, _titled(report, measured))


def _titled(report: Report, table: Table) -> Markup | None:
    return join(el("h3", table.title), _table(report, table)) if table.rows else None


def _curves(report: Report) -> Markup:
    distilled, parts = charts.pretraining(report), charts.objective_parts(report)
    early = el("p", "The first tenth of the logged steps may lie above the panels.", class_="note")
    tuned = [panel for task in report["tasks"] for panel in charts.fine_tuning(report, task)]
    key = el(
        "ul",
        el("li", _line_sign("train"), "training"),
        el("li", _line_sign("validation"), "validation"),
        el("li", _line_sign("ghost"), "training of the others"),
        class_="key",
    )
    return join(
        join(el("h3", "Pretraining and distillation"), key, _panels(distilled), early)
        if distilled
        else None,
        join(
            el("h3", "Parts of the objective, unweighted"),
            _key(charts.parts_of(report)),
            _panels(parts),
        )
        if parts
        else None,
        join(el("h3", "Fine-tuning"), _key(_models_of(report)), _panels(tuned)) if tuned else None,
    )


def _panels(panels: Sequence[Markup]) -> Markup:
    return el("div", *panels, class_="panels")


def _table(report: Report, table: Table) -> Markup | None:
    if not table.rows:
        return None
    series = charts.series_of(report)
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
    """An interval stands back below its number."""
    number, bracket, ends = value.partition(" [")
    if bracket and ends.endswith("]"):
        return join(number, el("span", f"{bracket}{ends}", class_="ends"))
    return Markup(text(value).replace("/", "/<wbr>"))  # a path may break after a directory


def _models_of(report: Report) -> dict[str, int]:
    return {
        name: index
        for name, index in charts.series_of(report).items()
        if not report["models"][name]["baseline"]
    }


def _key(series: Mapping[str, int]) -> Markup:
    return el("ul", *(el("li", _sign(index), name) for name, index in series.items()), class_="key")


def _sign(series: int) -> Markup:
    return el("svg", marker(8, 8, series), viewBox="0 0 16 16", class_="sign", aria_hidden="true")


def _line_sign(kind: str) -> Markup:
    line = el("path", d="M1 8H29", class_=f"line {kind} s{1 % COLOURS}")
    dot = marker(15, 8, 1, 4.5) if kind == "validation" else None
    return el("svg", line, dot, viewBox="0 0 30 16", class_="sign wide", aria_hidden="true")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
