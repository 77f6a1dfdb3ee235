"""The model card of a distilled student: its description, its training, and its lineage by link.

The same run gives the same bytes anywhere and at any time: no paths, no dates, no hosts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.artifacts import Artifact, Manifest, Output
from pipeline.artifacts.atomic import sha256_bytes
from pipeline.artifacts.fingerprint import canonical_json
from pipeline.artifacts.manifest import read_manifest
from pipeline.distillation.objective import part_weights
from pipeline.errors import ArtifactError
from pipeline.families import Shape
from pipeline.objectives import presets
from pipeline.objectives.weight_schedules import Scheduled
from pipeline.recipe import Cache, Distill, Recipe


@dataclass(frozen=True)
class LinkRecord:
    """One link: a model, how it was trained and its results."""

    recipe: Recipe
    payload: Mapping[str, Any]
    fingerprint: str
    steps: int
    validation: Mapping[str, float]


def model_card(
    recipe: Recipe,
    output: Output,
    *,
    shape: Shape,
    initial: str,
    steps: int,
    validation: Mapping[str, float],
) -> str:
    """Return the Markdown of README.md.

    initial: how the first weights were made. steps: the number of steps the weights have seen.
    """
    student = LinkRecord(recipe, output.payload, output.fingerprint, steps, validation)
    links, first = _lineage(student)
    settings, tokens = recipe.distill, Artifact(recipe.root / "tokens" / "train", "tokens").manifest
    weights = part_weights(settings.objective)
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text2text-generation",
        "tags: [distillation, miniend]",
        "---",
        "",
        f"# {settings.name}",
        "",
        "Pretrained by MiniEnD on unlabelled text, before any task is known; "
        "fine-tune it like any encoder-decoder model.",
        "",
        "```python",
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        "",
        "tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)",
        "model = AutoModelForSeq2SeqLM.from_pretrained(DIRECTORY)",
        'inputs = tokenizer("A river in <extra_id_0>.", return_tensors="pt")',
        "print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=20)))",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| shape | {shape.encoder_layers}+{shape.decoder_layers} blocks, d_model {shape.d_model}, "
        f"d_ff {shape.d_ff}, {shape.num_heads} heads of {shape.d_kv} |",
        f"| initial weights | {initial} |",
        f"| objective | {settings.objective.preset}: {_parts(weights)} |",
        f"| targets | {_targets(settings, recipe.cache)} |",
        f"| optimiser | {steps:,} steps of {settings.batch_size} rows, "
        f"learning rate {settings.learning_rate:g}, "
        f"{settings.schedule} after {settings.warmup_steps} steps of warm-up, "
        f"weight decay {settings.weight_decay:g}, {output.payload['settings']['dtype']} |",
        f"| measured | {_measured(validation)} |",
        f"| recipe | `{recipe_hash(recipe)}` |",
        f"| fingerprint | `{output.fingerprint}` |",
        "",
        "## Lineage",
        "",
        "| model | taught by | objective | steps × rows | validation LM loss | fingerprint |",
        "|---|---|---|---:|---:|---|",
        *(_row(link) for link in links),
        "",
        f"{first} Fingerprints and hashes are sha256; "
        "a fingerprint is of everything that decides a model's content.",
        "",
        "## Data",
        "",
        f"{tokens.totals['rows']:,} rows of span-corrupted text, "
        f"{recipe.tokens.views} corruption(s) of the same documents: "
        f"{_columns(tokens)}, noise density {recipe.tokens.noise_density:g}, "
        f"mean span {recipe.tokens.mean_span_length:g}. Fingerprint `{tokens.fingerprint}`.",
        "",
        *(f"> {note.strip()}\n" for note in tokens.provenance.get("text") or []),
        "## Licence",
        "",
        _licence(teaches=presets.needs_teacher(weights) or recipe.student.from_teacher is not None),
        "",
    ]
    return "\n".join(lines)


def recipe_hash(recipe: Recipe) -> str:
    """Return the sha256 of the settings that decide this model's content.

    Places, names, settings that only watch, and other stages are left out.
    """
    other_stages = {"interpolated", "finetune"}
    identity = {key: said for key, said in recipe.identity().items() if key not in other_stages}
    return sha256_bytes(canonical_json(identity))


def _measured(validation: Mapping[str, float]) -> str:
    return ", ".join(f"validation {name} {value:.4f}" for name, value in sorted(validation.items()))


def _lineage(student: LinkRecord) -> tuple[list[LinkRecord], str]:
    """Return the links down to the student, teacher side first, and a sentence on the teacher."""
    links = [student]
    while True:
        link = links[0]
        if link.payload.get("teacher") is None or link.recipe.teacher is None:
            return links, "The first of them learned from text alone."
        teacher_link = _read_link(Path(link.recipe.teacher.model))
        if teacher_link is None:
            teacher = link.recipe.teacher
            name = teacher.name if Path(teacher.model).is_dir() else f"`{teacher.model}`"
            known = f"its configuration and weights have the hash `{link.payload['teacher']}`"
            return links, f"The teacher of the first, {name}, was not made here; {known}."
        links.insert(0, teacher_link)


def _read_link(directory: Path) -> LinkRecord | None:
    """Return the record of the model in `directory`; None when this pipeline did not make it."""
    root = directory.parent
    if directory.name != "hf" or not (root / "manifest.json").is_file():
        return None
    try:
        manifest = read_manifest(root)
        recipe = Recipe.model_validate(
            yaml.safe_load((root / "recipe.yaml").read_text(encoding="utf-8"))
        )
        summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    except (ArtifactError, ValidationError, OSError, ValueError):
        return None
    return LinkRecord(
        recipe, manifest.payload, manifest.fingerprint, int(summary["steps"]), summary["validation"]
    )


def _row(link: LinkRecord) -> str:
    settings = link.recipe.distill
    weights = part_weights(settings.objective)
    teacher = "text alone"
    if presets.needs_teacher(weights) and link.recipe.teacher is not None:
        teacher = link.recipe.teacher.name
    loss = link.validation.get("lm_loss")
    return (
        f"| {settings.name} | {teacher} | {settings.objective.preset} | "
        f"{link.steps:,} × {settings.batch_size} | "
        f"{'' if loss is None else f'{loss:.4f}'} | `{link.fingerprint[:16]}` |"
    )


def _targets(settings: Distill, cache: Cache) -> str:
    if not presets.needs_teacher(part_weights(settings.objective)):
        return "the text's own tokens"
    return {
        "states": f"replayed from cached hidden states ({cache.states.dtype}), "
        f"cut at blocks {cache.encoder_cut} and {cache.decoder_cut}",
        "sampled": f"{cache.sampled.draws} cached draws a position, {cache.sampled.method}",
        "topk": f"the {cache.topk.k} most probable tokens a position, cached",
        "online": "the teacher itself at every step",
    }[settings.targets]


def _parts(weights: Mapping[str, Scheduled]) -> str:
    return ", ".join(f"{part} × {_shown(weight)}" for part, weight in weights.items())


def _shown(weight: Scheduled) -> str:
    return (
        f"{weight[0]:g}→{weight[1]:g} over {weight[2]} steps"
        if isinstance(weight, tuple)
        else f"{weight:g}"
    )


def _columns(tokens: Manifest) -> str:
    columns = tokens.shards[0].columns
    inputs, targets = columns["input_ids"].row_shape[0], columns["labels"].row_shape[0]
    return f"{inputs} input and {targets} target tokens"


def _licence(*, teaches: bool) -> str:
    sources = "the teacher's weights and of the text" if teaches else "the text"
    return (
        f"This card grants nothing: the licences of {sources} say what may be done with weights "
        "derived from them. State them here before you publish."
    )
