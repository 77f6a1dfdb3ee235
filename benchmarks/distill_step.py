"""Cost of a distillation step over training with the LM loss alone, and over an online teacher.

    python benchmarks/distill_step.py [--quick] [--json OUT]

A step is one forward and one backward pass of pipeline/training/distiller.py's `Distiller` on one
batch, called as it is: no DeepSpeed, no optimiser, no reading of the batch from disk. Teacher: a
random T5 v1.1 of base size in bf16; student: 6 + 6 blocks of the same width, bf16; 512 inputs and
114 targets, batches of 4 (`--quick`: 2 + 2 and 1 + 1 blocks, 4,096 tokens, batches of 1). Cached
targets are the teacher's own, as caching makes them: states at the last block of each stack, 50
draws, top 50.

`<preset>_over_lm_step_ratio`: from cached states, over the preset `lm` (which takes no teacher from
a cache, so its own ratio is 1). `…_encoder_output_…`: the cache also holds the encoder's output,
and the decoder's block alone is replayed. `sampled_…` and `topk_…`: the preset `logits` from these
targets. `online_over_cached_step_ratio_<preset>`: the teacher's blocks run at every step, over the
replay. `online_over_cached_ceiling` is 1 + N_teacher / (3 N_student), parameters without embeddings
and head: the saving when targets cost nothing. `part_…_ms` are the parts of `miniend` by
themselves, forward and backward: the replay, the relations, the head with both losses and with the
LM loss alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import PreTrainedModel

from benchmarks import common
from benchmarks.models import T5_BASE, VOCABULARY, Batch, device, random_batch, random_t5, wait
from pipeline.distillation.distiller import Distiller
from pipeline.distillation.head import DenseTarget, LossHead
from pipeline.distillation.places import teacher_places
from pipeline.distillation.references import CachedTeacher, OnlineTeacher, ReferenceTeacher
from pipeline.distillation.sides import Side
from pipeline.families import family_of
from pipeline.objectives.presets import RELATION_PAIRS
from pipeline.objectives.relations import relation_loss
from pipeline.recipe import Objective, Sampled, States
from pipeline.teacher import sparse
from pipeline.teacher.capture import capture
from pipeline.teacher.loaded import WholeTeacher
from pipeline.teacher.tail import Tail, cut_tail

DRAWS, TOP = 50, 50
#: Presets that need the states; `lm` needs nothing.
DENSE = ("logits", "minilm", "minilm_v1", "tinybert", "miniend")
STATES = ("encoder_states", "encoder_output", "decoder_states")


def targets(teacher: PreTrainedModel, cuts: tuple[int, int], batch: Batch) -> Batch:
    """Return everything a cache gives back for this batch."""
    family, vocabulary, scored = (
        family_of(teacher.config),
        teacher.config.vocab_size,
        batch["labels"] != -100,
    )
    captured = capture(teacher, family, cuts, batch, whole=True)
    assert captured.decoder_output is not None
    head = family.head(teacher)
    coded = sparse.sampled_column(
        captured.decoder_output, head, scored, Sampled(draws=DRAWS), seed=0, shard=0, first_row=0
    )
    top = sparse.topk_columns(captured.decoder_output, head, scored, TOP, vocabulary)
    top["topk_ids"] = top["topk_ids"].to(torch.int64)
    sparse_targets = sparse.read_sampled(coded, scored.cpu(), DRAWS, vocabulary) | sparse.read_topk(
        top
    )
    # Clones: what inference mode made cannot be used under autograd.
    found = {name: getattr(captured, name).clone() for name in STATES} | sparse_targets
    return {name: tensor.to(device()) for name, tensor in found.items()}


def only(found: Batch, *prefixes: str) -> Batch:
    return {name: tensor for name, tensor in found.items() if name.startswith(prefixes)}


def stepper(
    student: PreTrainedModel, preset: str, teacher: ReferenceTeacher | None, batch: Batch
) -> Callable[[], dict[str, torch.Tensor]]:
    """Return a function that makes one forward and backward pass and returns the parts."""
    sides = [] if preset == "lm" else [Side("", None, teacher)]
    distiller = Distiller(student, Objective(preset=preset), sides, max_steps=1)  # type: ignore[arg-type]

    def run() -> dict[str, torch.Tensor]:
        student.zero_grad(set_to_none=True)
        parts = distiller(batch)
        parts["loss"].backward()
        wait()
        return parts

    return run


def part_runs(
    student: PreTrainedModel, tail: Tail, batch: Batch, states: Batch
) -> dict[str, Callable[[], object]]:
    """Return the parts of `miniend`, each forward and, where it has one, backward."""
    replayed = tail.replay(
        states["decoder_states"], batch["attention_mask"], encoder_states=states["encoder_states"]
    )
    head = LossHead(student, family_of(student.config))
    hidden = torch.randn_like(replayed.decoder_output).requires_grad_()
    valid = {"encoder": batch["attention_mask"], "decoder": batch["labels"] != -100}

    def losses(target: DenseTarget | None) -> None:
        head.zero_grad(set_to_none=True)
        torch.stack(list(head(hidden, batch["labels"], target).values())).sum().backward()
        wait()

    def relations() -> None:
        for part, attention in (
            ("decoder_relations", "decoder_self"),
            ("cross_relations", "cross"),
        ):
            qkv = replayed.projections[attention]  # type: ignore[index]
            ours = {name: tensor.flip(0).detach().requires_grad_() for name, tensor in qkv.items()}
            for pair in RELATION_PAIRS[part]:
                relation_loss(
                    (qkv[pair.a], qkv[pair.b]),
                    (ours[pair.a], ours[pair.b]),
                    relation_heads=tail.shape.num_heads,
                    query_mask=valid[pair.rows],
                    key_mask=valid[pair.columns],
                    causal=pair.causal,
                ).backward()
        wait()

    def replay() -> None:
        tail.replay(
            states["decoder_states"],
            batch["attention_mask"],
            encoder_states=states["encoder_states"],
        )
        wait()

    return {
        "part_replay": replay,
        "part_relations": relations,
        "part_head_lm": lambda: losses(None),
        "part_head_lm_and_logits": lambda: losses(DenseTarget(replayed.decoder_output, tail.head)),
    }


def body(model: PreTrainedModel) -> int:
    """Count the parameters without embeddings and head."""
    return sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if not name.startswith(("shared.", "lm_head.")) and "embed_tokens" not in name
    )


def peak_gib(run: Callable[[], object]) -> float:
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    args = common.parser(__doc__).parse_args()
    layers, rows = ((2, 1), 1) if args.quick else ((12, 6), 4)
    shape = replace(T5_BASE, encoder_layers=layers[0], decoder_layers=layers[0])
    vocabulary = 4096 if args.quick else VOCABULARY
    teacher = random_t5(shape, vocabulary)
    student = random_t5(
        replace(shape, encoder_layers=layers[1], decoder_layers=layers[1]), vocabulary
    ).train()
    cuts, batch = (layers[0] - 1, layers[0] - 1), random_batch(rows, vocabulary=vocabulary)
    found = targets(teacher, cuts, batch)
    tail = cut_tail(teacher, cuts)

    def cached(preset: str) -> CachedTeacher:
        places = teacher_places(Objective(preset=preset), 0)  # type: ignore[arg-type]
        return CachedTeacher(Tail(tail.model, *places), States())

    def online(preset: str) -> OnlineTeacher:
        return OnlineTeacher(
            WholeTeacher(teacher, (0, 0)), *teacher_places(Objective(preset=preset), -1)
        )

    states = batch | only(found, "encoder_states", "decoder_states")
    without_encoder = batch | only(found, "encoder_output", "decoder_states")
    runs: dict[str, Callable[[], object]] = {"lm": stepper(student, "lm", None, batch)}
    for preset in DENSE:
        runs[preset] = stepper(student, preset, cached(preset), states)
    for preset in ("logits", "miniend"):
        runs[f"{preset}_encoder_output"] = stepper(student, preset, cached(preset), without_encoder)
        runs[f"{preset}_online"] = stepper(student, preset, online(preset), batch)
    runs["sampled"] = stepper(student, "logits", None, batch | only(found, "sampled_"))
    runs["topk"] = stepper(student, "logits", None, batch | only(found, "topk_"))
    runs |= part_runs(student, tail, batch, found)

    seconds = common.best_times(runs, 1 if args.quick else 3)
    figures = {
        f"{name}{'' if name.startswith('part_') else '_step'}_ms": best * 1e3
        for name, best in seconds.items()
    }
    for name in runs:
        if not name.endswith("_online") and not name.startswith("part_") and name != "lm":
            figures[f"{name}_over_lm_step_ratio"] = seconds[name] / seconds["lm"]
    for preset in ("logits", "miniend"):
        figures[f"online_over_cached_step_ratio_{preset}"] = (
            seconds[f"{preset}_online"] / seconds[preset]
        )
    figures["online_over_cached_ceiling"] = 1 + body(teacher) / (3 * body(student))
    figures["sampled_ids_per_position"] = float(
        (found["sampled_counts"] > 0).sum() / batch["labels"].numel()
    )
    if device().type == "cuda":
        figures |= {
            f"{name}_peak_gib": peak_gib(run)
            for name, run in runs.items()
            if not name.startswith("part_")
        }
    goals = {"miniend_over_lm_step_ratio": ("<=", 1.35), "sampled_over_lm_step_ratio": ("<=", 1.10)}
    common.finish("distill_step", figures, {} if args.quick else goals, args.json)


if __name__ == "__main__":
    main()
