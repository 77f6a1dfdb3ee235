"""The chain of recipes/t5-3b.yaml at its true shape: one captured batch and one step of each link.

    python benchmarks/t5_3b_shape.py [--json OUT]

Weights are random. Everything is on the CPU in bfloat16, also gradients and Adam's moments; it
needs about 16 GB of memory.
It shows that the shapes of every link fit each other in capture, replay, loss and update.
It also compares the predictions of `miniend plan`, for a row of the cache and for what a forward
pass keeps, with the real bytes.
Its times say nothing about a GPU. There is no quick form.
"""

from __future__ import annotations

import copy
import gc
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks import common
from benchmarks.models import random_batch
from pipeline.distillation.distiller import Distiller
from pipeline.distillation.places import teacher_places
from pipeline.distillation.references import CachedTeacher
from pipeline.distillation.sides import Side
from pipeline.layout import Run
from pipeline.models.architecture import Architecture
from pipeline.planning.cache_bytes import bytes_of_row, cuts_of
from pipeline.planning.chain import plan_chain
from pipeline.planning.corpus_rows import rows_of
from pipeline.planning.live import LiveBytes
from pipeline.planning.step import step_bytes
from pipeline.recipe import load_recipe
from pipeline.teacher import states
from pipeline.teacher.loaded import WholeTeacher
from pipeline.teacher.tail import Tail
from pipeline.training.engine import prepare_config

BF16 = torch.bfloat16


def main() -> None:
    chosen = common.parser(__doc__).parse_args()
    recipe = load_recipe("recipes/t5-3b.yaml")
    rows = rows_of(Run(recipe.root), recipe.tokens, 1e9)
    chain = plan_chain(recipe)
    figures: dict[str, float] = {}
    goals: dict[str, tuple[str, float]] = {}
    assert chain.links[0].teacher is not None
    made = [_filled(chain.links[0].teacher.architecture)]
    for number, link in enumerate(chain.links, 1):
        assert link.teacher is not None
        planned_teacher, planned_student = link.teacher.architecture, link.student.architecture
        label, began = f"link_{number}", time.perf_counter()
        batch = random_batch(1)
        cuts = cuts_of(recipe.cache, planned_teacher)
        loaded = WholeTeacher(made.pop(), cuts)
        with torch.no_grad():
            captured = loaded.run(batch, False)
        stored = states.store("encoder_states", captured.encoder_states, recipe.cache.states)
        stored |= states.store("decoder_states", captured.decoder_states, recipe.cache.states)
        config, weights = loaded.tail_state()
        tail = {name: weight.clone() for name, weight in weights.items()}
        figures[f"{label}_capture_seconds"] = time.perf_counter() - began
        planned_row = bytes_of_row(recipe.cache, rows, planned_teacher, "bfloat16")
        figures[f"{label}_row_bytes_planned_over_captured_ratio"] = planned_row / sum(
            column.nbytes for column in stored.values()
        )
        goals[f"{label}_row_bytes_planned_over_captured_ratio"] = ("==", 1.0)
        del loaded, captured, weights
        gc.collect()

        settings = recipe.distill
        config_trained = copy.deepcopy(planned_student.config)
        prepare_config(config_trained, settings)
        student = _filled(replace(planned_student, config=config_trained))
        places = teacher_places(settings.objective, 0)
        replayed = CachedTeacher(
            Tail(planned_teacher.family.build_tail(config, tail), *places), recipe.cache.states
        )
        distiller = Distiller(
            student.train(), settings.objective, [Side("", None, replayed)], settings.max_steps
        )
        optimizer = torch.optim.AdamW(
            student.parameters(), lr=settings.learning_rate, foreach=False
        )
        began = time.perf_counter()
        before = next(student.encoder.block[0].parameters()).detach().clone()  # type: ignore[union-attr, operator]
        with LiveBytes() as live:
            live.ignore(
                [*distiller.parameters(), *tail.values(), *batch.values(), *stored.values()]
            )
            loss = distiller(batch=batch | stored, step=0)["loss"]
            kept = live.now
        loss.backward()
        optimizer.step()
        figures[f"{label}_step_seconds"] = time.perf_counter() - began
        figures[f"{label}_loss"] = float(loss.detach())
        figures[f"{label}_student_parameters"] = sum(
            weight.numel() for weight in student.parameters()
        )
        figures[f"{label}_changed_by_update"] = float(
            (before != next(student.encoder.block[0].parameters())).any()
        )  # type: ignore[union-attr, operator]
        goals |= {f"{label}_loss": ("<", 100.0), f"{label}_changed_by_update": ("==", 1.0)}
        assert figures[f"{label}_student_parameters"] == planned_student.size.total
        planned = step_bytes(
            settings,
            recipe.cache,
            planned_student,
            planned_teacher,
            rows=1,
            lengths=(rows.input_length, rows.target_length),
            dtype=BF16,
            teacher_dtype=BF16,
            on_cpu=True,
        )
        figures[f"{label}_kept_bytes_planned_over_measured_ratio"] = planned.kept / kept
        figures[f"{label}_kept_bytes_off_by_share"] = abs(planned.kept / kept - 1)
        goals[f"{label}_kept_bytes_off_by_share"] = ("<=", 0.1)
        made.append(student)
        del student, distiller, optimizer, replayed, loss
        gc.collect()
    figures["peak_resident_gb"] = common.status_bytes("VmHWM") / 1e9
    goals["peak_resident_gb"] = ("<=", 24.0)
    if not common.finish("t5_3b_shape", figures, goals, chosen.json):
        sys.exit(1)


def _filled(model: Architecture) -> Any:
    """Return the model with random weights: repeated normal noise (0.02), norms of one."""
    empty: Any = model.empty(BF16).to_empty(device="cpu")
    empty.tie_weights()
    if model.separate_head:
        model.family.separate_head(empty)
    noise = (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * 0.02).to(BF16)
    with torch.no_grad():
        for weight in empty.parameters():
            if weight.dim() == 1:
                weight.fill_(1.0)
                continue
            flat = weight.view(-1)
            for start in range(0, flat.numel(), len(noise)):
                part = flat[start : start + len(noise)]
                part.copy_(noise[: len(part)])
    return empty


if __name__ == "__main__":
    main()
