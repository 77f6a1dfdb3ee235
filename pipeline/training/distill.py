"""Stage 3: a student trained on the corpus from cached targets (or with the LM loss alone), ending with `hf/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from pipeline import lineage
from pipeline.artifacts import Artifact, Output
from pipeline.artifacts.atomic import write_json
from pipeline.artifacts.content import resolve_model
from pipeline.console import say
from pipeline.families import check_dtype, family_of
from pipeline.hardware import resolve_dtype
from pipeline.objectives import presets
from pipeline.recipe import Recipe
from pipeline.student.initial import check_copy, write_initial_student
from pipeline.student.shapes import student_config
from pipeline.teacher.cache import check_vocabulary
from pipeline.training import distributed
from pipeline.training.engine import deepspeed_config, load_model
from pipeline.training.export import export_model
from pipeline.training.loop import train
from pipeline.training.targets import DistillLoss, LanguageModelValidation, TokenSource, check_objective, open_tail


def distill(recipe: Recipe, output: Output, label: str) -> Output:
    """Bring `output` (of lineage.distill_output) to completion, resuming where an earlier run stopped.

    Every rank calls it. Raises ConfigError for anything in the recipe that cannot work, before training starts.
    """
    if output.complete():
        return output
    distributed.setup()
    rank = distributed.rank()
    settings = recipe.distill
    train_tokens = lineage.tokens_artifact(recipe, "train")
    validation_tokens = lineage.tokens_artifact(recipe, "validation")
    tokenizer = lineage.tokenizer_directory(recipe)
    cache = Artifact(lineage.cache_output(recipe).root, "teacher_cache") if "cache" in output.inputs else None
    config = _student_config(recipe, tokenizer)
    _check(recipe, config, cache)
    initial = output.root / "initial"
    if rank == 0:
        output.begin()
        if not (initial / "config.json").exists():
            teacher = resolve_model(recipe.teacher.model) if recipe.teacher is not None else None
            write_initial_student(config, recipe.student.init, teacher, recipe.seed, initial)
    distributed.barrier()
    model = load_model(initial, settings)
    pad = model.config.pad_token_id
    loss = DistillLoss(settings.objective, model, open_tail(cache) if cache is not None else None)
    micro = settings.micro_batch_size or max(1, settings.batch_size // distributed.world_size())
    validation = LanguageModelValidation(validation_tokens, pad, settings.validation_rows, micro)
    engine = train(
        model=model,
        settings=settings,
        source=TokenSource(train_tokens, cache, pad),
        loss=loss,
        out=output.root,
        identity=output.fingerprint,
        seed=recipe.seed,
        label=label,
        validate=validation,
    )
    loss.close()
    engine.eval()
    quality = validation(engine, settings.max_steps)
    files = export_model(engine.module, output.root / "hf", tokenizer, _card(recipe, output, quality))
    engine.destroy()
    if rank == 0:
        write_json(output.root / "summary.json", {"validation": quality, "steps": settings.max_steps})
        output.finish(files=[*files, "summary.json"], provenance={"world_size": distributed.world_size()})
        say(f"{label}: validation LM loss {quality['lm_loss']:.4f}; model in {output.root / 'hf'}")
    distributed.barrier()
    return output


def _student_config(recipe: Recipe, tokenizer: Path) -> Any:
    vocabulary = len(AutoTokenizer.from_pretrained(tokenizer))
    if recipe.teacher is None:
        return student_config(recipe.student, None, vocabulary)
    directory = resolve_model(recipe.teacher.model)
    teacher = AutoConfig.from_pretrained(directory)
    check_vocabulary(recipe.teacher.model, directory, teacher.vocab_size, tokenizer)
    return student_config(recipe.student, teacher, vocabulary)


def _check(recipe: Recipe, config: Any, cache: Artifact | None) -> None:
    """Raise ConfigError for what would fail later, before anything is written."""
    settings, family = recipe.distill, family_of(config)
    check_dtype(config, resolve_dtype(settings.dtype), "distill.dtype")
    deepspeed_config(settings)
    if cache is not None:
        check_objective(
            settings.objective, family.shape(config), family.shape(AutoConfig.from_pretrained(cache.root / "tail"))
        )
    if recipe.student.init == "layers":
        teacher = AutoConfig.from_pretrained(resolve_model(lineage.required_teacher(recipe).model))
        check_copy(family.shape(config), family.shape(teacher))


def _card(recipe: Recipe, output: Output, quality: dict[str, float]) -> str:
    objective = recipe.distill.objective
    weights = presets.resolve(objective.preset, objective.weights)
    # No paths: the same run elsewhere gives the same files.
    teacher = "none"
    if recipe.teacher is not None and "cache" in output.inputs:
        teacher = f"{recipe.teacher.name} (`{output.payload['teacher'][:16]}`)"
    return f"""---
library_name: transformers
pipeline_tag: text2text-generation
---

# {recipe.distill.name}

Pretrained by MiniEnD on unlabelled text; fine-tune it like any encoder-decoder model.

| | |
|---|---|
| teacher | {teacher} |
| initial weights | {recipe.student.init} |
| objective | {objective.preset}: {", ".join(f"{part} × {weight:g}" for part, weight in weights.items())} |
| steps × batch | {recipe.distill.max_steps} × {recipe.distill.batch_size} |
| validation LM loss | {quality["lm_loss"]:.4f} |
| fingerprint | `{output.fingerprint}` |
"""
