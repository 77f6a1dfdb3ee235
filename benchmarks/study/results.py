"""Results of the study, read back from its artifacts: the document that docs/study.md shows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from benchmarks import common
from benchmarks.study.grid import Group, Unit
from benchmarks.study.grid import Path as Way
from benchmarks.study.work import Study
from pipeline import lineage
from pipeline.artifacts import Artifact
from pipeline.downstream.results import Scored, UnitResult, compare
from pipeline.errors import PipelineError

TASKS = ("topic", "sentiment")
Record = dict[str, Any]


def collect(study: Study, groups: Sequence[Group]) -> Record:
    """Return everything that is finished.

    Unfinished units are left out; `seeds` says which ones there are.
    """
    units = {unit.name: unit for group in groups for unit in group.units()}
    distilled = {
        name: found
        for name, unit in units.items()
        if (found := _distilled(study, unit)) is not None
    }
    judged = {name: _judged(study, name, units[name], units[name].seed) for name in distilled}
    teacher = {
        seed: found for seed in groups[0].seeds if (found := _judged(study, "teacher", None, seed))
    }
    return {
        "teacher": _teacher(study, teacher),
        "settings": _settings(study),
        "groups": {group.name: _group(group, distilled, judged) for group in groups},
        "units": {
            name: record | {"scores": {task: found.scores for task, found in judged[name].items()}}
            for name, record in distilled.items()
        },
        "caches": _caches(study),
        "environment": common.environment(),
    }


def _distilled(study: Study, unit: Unit) -> Record | None:
    try:
        output = study.output(unit)
        if not output.complete():
            return None
    except PipelineError:
        return None
    names = [
        f"{output.root.name}.assistant-{number}" for number in range(1, unit.path.assistants + 1)
    ]
    links = [_link(output.root.with_name(name)) for name in [*names, output.root.name]]
    tokens = _tokens_per_step(study)
    *before, last = links
    steps = sum(link["steps"] for link in before)
    return {
        "seed": unit.seed,
        # Steps of the whole path: a chain's student begins after its assistants' steps.
        "curve": [[steps + step, loss] for step, loss in last["curve"]],
        "lm_loss": last["curve"][-1][1],
        "steps_before": steps,
        "flops_before": sum(link["steps"] * link["flops_per_token"] * tokens for link in before),
        "flops_per_step": last["flops_per_token"] * tokens,
        "flops": sum(link["steps"] * link["flops_per_token"] * tokens for link in links),
        "seconds_per_step": tokens / last["tokens_per_second"],
    }


def _link(root: Path) -> Record:
    """Return curve, steps, and pace of one training run from its log."""
    events = [
        json.loads(line)
        for line in (root / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    losses = {
        line["step"]: line["validation/lm_loss"] for line in events if "validation/lm_loss" in line
    }
    windows = [line for line in events if line.get("speed/tflops_per_device")]
    ratios = [
        line["speed/tflops_per_device"] * 1e12 / line["speed/tokens_per_second"] for line in windows
    ]
    return {
        "curve": [[step, losses[step]] for step in sorted(losses)],
        "steps": max(losses),
        "flops_per_token": median(ratios),
        "tokens_per_second": median(line["speed/tokens_per_second"] for line in windows),
    }


def _tokens_per_step(study: Study) -> float:
    totals = Artifact(study.students / "tokens" / "train", "tokens").manifest.totals
    return study.recipe().distill.batch_size * totals["tokens"] / totals["rows"]


def _judged(study: Study, name: str, unit: Unit | None, seed: int) -> dict[str, UnitResult]:
    recipe = study.tuning_recipe(name, unit, seed)
    found = {}
    for task in recipe.finetune.tasks:
        rate = recipe.finetune.rates(task)[0]
        try:
            output = lineage.finetune_output(recipe, task, name, f"seed-{seed}", seed, rate, {})
            if output.complete():
                record = json.loads((output.root / "metrics.json").read_text(encoding="utf-8"))
                found[task.name] = UnitResult(root=output.root, settings=task, **record)
        except PipelineError:
            continue
    return found


def _group(
    group: Group, distilled: dict[str, Record], judged: dict[str, dict[str, UnitResult]]
) -> Record:
    reference = _of(group.reference, group, distilled)
    budget = None
    if reference:
        budget = fmean(distilled[name]["flops"] for name in reference.values())
    paths = {}
    for path in group.paths:
        names = _of(path, group, distilled)
        if names:
            paths[path.name] = _path(names, reference, budget, distilled, judged)
    return {
        "title": group.title,
        "reference": group.reference.name,
        "budget_flops": budget,
        "paths": paths,
    }


def _of(path: Way, group: Group, distilled: dict[str, Record]) -> dict[int, str]:
    names = {seed: Unit(path, seed).name for seed in group.seeds}
    return {seed: name for seed, name in names.items() if name in distilled}


def _path(
    names: dict[int, str],
    reference: dict[int, str],
    budget: float | None,
    distilled: dict[str, Record],
    judged: dict[str, dict[str, UnitResult]],
) -> Record:
    units = [distilled[name] for name in names.values()]
    losses = [unit["lm_loss"] for unit in units]
    record: Record = {
        "seeds": sorted(names),
        "lm_loss": _spread(losses),
        "curve": [
            [points[0][0], fmean(y for _, y in points)]
            for points in zip(*(unit["curve"] for unit in units), strict=False)
        ],
        "flops_per_step": fmean(unit["flops_per_step"] for unit in units),
        "seconds_per_step": median(unit["seconds_per_step"] for unit in units),
        "tasks": {},
    }
    if budget is not None:
        record["lm_loss_at_budget"] = _spread([_at_flops(unit, budget) for unit in units])
    shared = sorted(set(names) & set(reference))
    if shared and names != reference:
        apart = [
            distilled[names[seed]]["lm_loss"] - distilled[reference[seed]]["lm_loss"]
            for seed in shared
        ]
        record["against_reference"] = _spread(apart) | {
            "p_value": _paired_t(apart),
            "seeds": shared,
        }
    for task in TASKS:
        ours = [judged[name][task] for name in names.values() if task in judged[name]]
        if not ours:
            continue
        metric = ours[0].metric
        found = _spread([unit.scores[metric] for unit in ours]) | {"metric": metric}
        theirs = [
            judged[reference[seed]][task] for seed in shared if task in judged[reference[seed]]
        ]
        mine = [judged[names[seed]][task] for seed in shared if task in judged[names[seed]]]
        if theirs and len(theirs) == len(mine) and names != reference:
            difference = compare(Scored(mine, 1000), Scored(theirs, 1000), metric)
            found["against_reference"] = difference._asdict()
        record["tasks"][task] = found
    return record


def _at_flops(unit: Record, budget: float) -> float:
    """Return the LM loss where training has cost `budget` FLOPs, interpolated linearly."""
    step = unit["steps_before"] + (budget - unit["flops_before"]) / unit["flops_per_step"]
    points = unit["curve"]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= step <= x1:
            return float(y0 + (y1 - y0) * (step - x0) / (x1 - x0))
    return float(points[-1][1] if step > points[-1][0] else points[0][1])


def _spread(values: Sequence[float]) -> Record:
    return {
        "mean": fmean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def _paired_t(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the paired t-test. With three seeds its power is small."""
    from scipy import stats

    if len(differences) < 2 or len(set(differences)) == 1:
        return None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _teacher(study: Study, judged: dict[int, dict[str, UnitResult]]) -> Record:
    root = study.root / "distill" / "teacher"
    curve = _link(root)["curve"]
    tasks = {}
    for task in TASKS:
        units = [found[task] for found in judged.values() if task in found]
        if units:
            tasks[task] = _spread([unit.scores[unit.metric] for unit in units]) | {
                "metric": units[0].metric
            }
    return {"lm_loss": curve[-1][1], "curve": curve, "tasks": tasks}


def _settings(study: Study) -> Record:
    recipe = study.recipe()
    tokens = Artifact(study.students / "tokens" / "train", "tokens").manifest.totals
    teacher = Artifact(study.root / "tokens" / "train", "tokens").manifest.totals
    domains = study.root / "corpus" / "domains.json"
    return {
        "quick": study.quick,
        "distill": {
            name: getattr(recipe.distill, name)
            for name in ("max_steps", "batch_size", "learning_rate")
        },
        "finetune": {
            name: getattr(recipe.finetune, name)
            for name in ("max_steps", "batch_size", "learning_rate")
        },
        "student_tokens": tokens,
        "teacher_tokens": teacher,
        "domains": json.loads(domains.read_text()) if domains.is_file() else {},
    }


def _caches(study: Study) -> dict[str, Record]:
    """Return the bytes of each cache, and bytes a token of the training set."""
    tokens = Artifact(study.students / "tokens" / "train", "tokens").manifest.totals["tokens"]
    found = {}
    for manifest in sorted((study.students / "teacher_cache").glob("*/manifest.json")):
        size = Artifact(manifest.parent, "teacher_cache").manifest.totals["bytes"]
        found[manifest.parent.name] = {"bytes": size, "bytes_per_token": size / tokens}
    return found
