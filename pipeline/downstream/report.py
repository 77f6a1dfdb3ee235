"""The comparison of a recipe's models over its tasks, as data and as a Markdown table, read from finished units alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

from pipeline.artifacts import atomic
from pipeline.artifacts.content import resolve_model
from pipeline.downstream.results import chosen
from pipeline.downstream.shape import model_shape
from pipeline.errors import PipelineError
from pipeline.recipe import Recipe

#: The scores a table shows, with their headings and decimals; report.json holds all of them.
SHOWN = {
    "regression": {"pearson": ("Pearson", 3), "spearman": ("Spearman", 3)},
    "classification": {"accuracy": ("accuracy", 3), "matthews": ("MCC", 3)},
    "generation": {"rouge1": ("ROUGE-1", 2), "rouge2": ("ROUGE-2", 2), "rougeL": ("ROUGE-L", 2)},
}


class ModelRow(TypedDict):
    directory: str
    encoder_layers: int
    decoder_layers: int
    #: All weights, and those of them in embeddings and the LM head.
    parameters: int
    embedding_parameters: int
    validation_lm_loss: float | None
    #: Of the first generation task; None without one.
    generated_tokens_per_second: float | None
    latency_milliseconds: float | None
    #: Task → metric → value; a task that is not finished is absent.
    scores: dict[str, dict[str, float]]


class Comparison(TypedDict):
    name: str
    #: Task → its kind.
    tasks: dict[str, str]
    models: dict[str, ModelRow]


def compare(recipe: Recipe) -> Comparison:
    """Collect what the finished units of `recipe` hold, and the validation LM loss of models that this pipeline trained."""
    rows = {}
    results = chosen(recipe)
    for name, candidate in recipe.finetune.models.items():
        model = candidate.model
        try:
            directory = resolve_model(model)
        except PipelineError:
            continue  # not made yet: a run restricted to other models
        found = {task: models[name] for task, models in results.items() if name in models}
        scores = {task: scored.mean for task, scored in found.items()}
        files = [unit.root / "speed.json" for scored in found.values() for unit in scored.units]
        speeds = [_read(file) for file in files if file.is_file()]
        shape = model_shape(directory)
        rows[name] = ModelRow(
            directory=model,
            encoder_layers=shape.encoder_layers,
            decoder_layers=shape.decoder_layers,
            parameters=shape.parameters,
            embedding_parameters=shape.embedding_parameters,
            validation_lm_loss=_lm_loss(directory),
            generated_tokens_per_second=speeds[0]["generated_tokens_per_second"] if speeds else None,
            latency_milliseconds=speeds[0]["latency_milliseconds"] if speeds else None,
            scores=scores,
        )
    tasks = {task.name: str(task.kind) for task in recipe.finetune.tasks}
    return Comparison(name=recipe.finetune.name, tasks=tasks, models=rows)


def markdown(comparison: Comparison) -> str:
    """One row a model; a number that was not measured is a dash."""
    header = ["model", "layers", "parameters", "of them embeddings", "validation LM loss"]
    for task, kind in comparison["tasks"].items():
        header += [f"{task} {heading}" for heading, _ in SHOWN[kind].values()]
    header += ["generation (tokens/s)"]
    lines = []
    for name, row in comparison["models"].items():
        cells = [
            name,
            f"{row['encoder_layers']}+{row['decoder_layers']}",
            _millions(row["parameters"]),
            _millions(row["embedding_parameters"]),
            _number(row["validation_lm_loss"], 3),
        ]
        for task, kind in comparison["tasks"].items():
            scores = row["scores"].get(task, {})
            cells += [_number(scores.get(metric), digits) for metric, (_, digits) in SHOWN[kind].items()]
        lines.append([*cells, _number(row["generated_tokens_per_second"], 0)])
    return _table(header, lines)


def write(recipe: Recipe, comparison: Comparison) -> tuple[Path, Path]:
    """Write report.json and report.md beside the tasks' directories and return their paths."""
    root = recipe.root / "finetune" / recipe.finetune.name
    atomic.write_json(root / "report.json", comparison)
    atomic.write_text(root / "report.md", f"# {comparison['name']}\n\n{markdown(comparison)}")
    return root / "report.json", root / "report.md"


def _lm_loss(directory: Path) -> float | None:
    """Validation LM loss of a model that `distill` made, from the summary beside its hf/."""
    summary = directory.parent / "summary.json"
    return float(_read(summary)["validation"]["lm_loss"]) if summary.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), f"| {' | '.join(rule)} |", *map(line, rows)]) + "\n"
