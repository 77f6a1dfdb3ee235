"""Throughput of capturing and writing a cache over that of the teacher's plain forward pass.

    python benchmarks/cache_capture.py [--quick] [--json OUT]

A random T5 v1.1 of base size (12 + 12 blocks, width 768, 32,128 tokens) in bf16, with 512 inputs
and 114 targets, in batches of 8 (`--quick`: 3 + 3 blocks of width 256, 4,096 tokens, batches of 4).
The plain pass is the model called with decoder_input_ids, to its logits; nothing is kept.

Each other run does the work of pipeline/teacher/caching.py on one shard of a few batches: capture
with hooks, make the columns, write them in the background, then fsync, hash and rename.
All of that is timed, except the fidelity check of the shard's first batch, which makes no
difference to a shard of thousands of rows.
Caching states leaves the decoder at its last block and runs no head, so it can be faster than the
plain pass. Sparse targets take all blocks and the head.

- `<kind>_over_forward_throughput_ratio`: the plain pass's time over the kind's.
- `…_over_stacks_…`: the time of all blocks without the head over the kind's. This is the harder
  measure of hooks and writing.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import PreTrainedModel

from benchmarks import common
from benchmarks.models import (
    T5_BASE,
    VOCABULARY,
    Batch,
    device,
    random_batch,
    random_t5,
    wait,
    with_decoder_inputs,
)
from pipeline.artifacts import Output
from pipeline.artifacts.shard import Rows
from pipeline.families import family_of
from pipeline.families.stacks import decode, encode
from pipeline.recipe import Cache, Sampled, States, Topk
from pipeline.teacher import sparse, states
from pipeline.teacher.background_writing import Writing
from pipeline.teacher.capture import capture

KINDS = {
    "states": Cache(),
    "states_int8": Cache(states=States(dtype="int8")),
    "states_sampled50": Cache(kinds=["states", "sampled"], sampled=Sampled(draws=50)),
    "states_topk50": Cache(kinds=["states", "topk"], topk=Topk(k=50)),
    "sampled50": Cache(kinds=["sampled"], sampled=Sampled(draws=50)),
}


def columns(
    teacher: PreTrainedModel, cache: Cache, batch: Batch, first_row: int
) -> dict[str, Rows]:
    """Capture one batch and make its columns, on the CPU."""
    family, shape = family_of(teacher.config), family_of(teacher.config).shape(teacher.config)
    cuts = shape.encoder_layers - 1, shape.decoder_layers - 1
    captured = capture(
        teacher, family, cuts, batch, whole=bool({"sampled", "topk"} & set(cache.kinds))
    )
    head, scored = family.head(teacher), batch["labels"] != -100
    found: dict[str, Rows] = {}
    if "states" in cache.kinds:
        found |= states.store("encoder_states", captured.encoder_states, cache.states)
        found |= states.store("decoder_states", captured.decoder_states, cache.states)
    if "sampled" in cache.kinds:
        assert captured.decoder_output is not None
        found[sparse.SAMPLED] = sparse.sampled_column(
            captured.decoder_output,
            head,
            scored,
            cache.sampled,
            seed=0,
            shard=0,
            first_row=first_row,
        )
    if "topk" in cache.kinds:
        assert captured.decoder_output is not None
        found |= sparse.topk_columns(
            captured.decoder_output, head, scored, cache.topk.k, teacher.config.vocab_size
        )
    return {
        name: rows.cpu() if isinstance(rows, torch.Tensor) else rows for name, rows in found.items()
    }


def caching(
    teacher: PreTrainedModel, cache: Cache, batches: list[Batch], root: Path
) -> Callable[[], None]:
    """One shard: begun, written batch by batch, finished."""

    def run() -> None:
        shutil.rmtree(root, ignore_errors=True)
        output = Output(root, "teacher_cache", {"of": "benchmark"}, "", {})
        output.begin()
        with Writing() as writing:
            writing.begin(output, 0, sum(len(batch["labels"]) for batch in batches))
            row = 0
            for batch in batches:
                writing.append(columns(teacher, cache, batch, row))
                row += len(batch["labels"])
            writing.finish(sum(batch["input_ids"].numel() for batch in batches), {})

    return run


@torch.inference_mode()
def main() -> None:
    args = common.parser(__doc__).parse_args()
    shape, vocabulary, rows, count = T5_BASE, VOCABULARY, 8, 2
    if args.quick:
        shape = replace(
            shape, encoder_layers=3, decoder_layers=3, d_model=256, d_ff=682, num_heads=4
        )
        vocabulary, rows, count = 4096, 4, 2
    teacher = random_t5(shape, vocabulary)
    batches = [random_batch(rows, vocabulary=vocabulary) for _ in range(count)]
    tokens = sum(batch["input_ids"].numel() + batch["labels"].numel() for batch in batches)
    inputs = [with_decoder_inputs(teacher, batch) for batch in batches]

    def forward() -> None:
        for batch in inputs:
            teacher(**batch, use_cache=False)
        wait()

    def stacks() -> None:
        for batch in inputs:
            mask = batch["attention_mask"]
            encoder_output = encode(teacher, mask, input_ids=batch["input_ids"])
            decode(teacher, encoder_output, mask, decoder_input_ids=batch["decoder_input_ids"])
        wait()

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        runs: dict[str, Callable[[], object]] = {"forward": forward, "stacks": stacks}
        runs |= {
            kind: caching(teacher, cache, batches, root / kind) for kind, cache in KINDS.items()
        }
        if device().type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = common.best_times(runs, 1 if args.quick else 4)
        for kind in KINDS:
            written = (root / kind / "shards" / "00000.safetensors").stat().st_size
            figures[f"{kind}_bytes_per_token"] = written / tokens
    for name, best in seconds.items():
        figures[f"{name}_tokens_per_s"] = tokens / best
    for kind in KINDS:
        figures[f"{kind}_over_forward_throughput_ratio"] = seconds["forward"] / seconds[kind]
    figures["states_over_stacks_throughput_ratio"] = seconds["stacks"] / seconds["states"]
    if device().type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    goals = {"states_over_forward_throughput_ratio": (">=", 0.95)}
    common.finish("cache_capture", figures, goals, args.json)


if __name__ == "__main__":
    main()
