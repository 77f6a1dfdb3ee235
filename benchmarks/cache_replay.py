"""Time that replaying the tail saves: the teacher's forward pass over its replay from the cache.

    python benchmarks/cache_replay.py [--quick] [--json OUT]

Two shapes with random weights in bf16, 512 inputs and 114 targets, states cut at the last block of
each stack (`--quick`: 4 + 4 and 2 + 2 of these blocks, batches of 1, no goals):

- `t5_base`: T5 v1.1 base, batches of 8.
- `t5_3b`: T5 1.0's 3B (24 + 24 blocks, width 1024, 32 heads of 128, d_ff 16,384, ReLU, tied),
  batches of 1.

These runs are timed, on states already in memory:

- `forward`: the teacher called with decoder_input_ids, to its logits.
- `stacks`: its two stacks of blocks, without the head.
- `replay`: Tail.replay, which gives q, k, v of the three attentions, the encoder's output and the
  decoder's.
- `replay_logits`: the same, and the logits of all positions through the tail's head.
- `replay_from_encoder_output`: Tail.replay where the cache also holds the encoder's output, so
  only the decoder's block runs.

The figures:

- `<shape>_forward_over_replay_ratio` leaves the head out on both sides (stacks ÷ replay). In
  training neither a cached nor an online teacher runs it there: the loss takes the head's weight
  and makes logits chunk by chunk at the same cost for both.
- `…_with_logits_ratio` has the head on both sides (forward ÷ replay_logits).
- `…_with_logits_ceiling` is that quotient counted in multiplications. The head is not cut, and in
  a base model it costs as much as half a block of each stack, so replay with logits cannot come
  near the number of blocks there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import common
from benchmarks.models import (
    INPUTS,
    T5_3B,
    T5_BASE,
    TARGETS,
    VOCABULARY,
    device,
    random_batch,
    random_t5,
    wait,
    with_decoder_inputs,
)
from pipeline.families import Shape, family_of
from pipeline.families.stacks import decode, encode
from pipeline.teacher.capture import capture
from pipeline.teacher.tail import cut_tail


def multiplications(shape: Shape, gated: bool) -> tuple[float, float, float]:
    """Return those of one example: in an encoder block, in a decoder block, in the head."""
    width, attention = shape.d_model, shape.attention_width
    feed_forward = (3 if gated else 2) * width * shape.d_ff
    square = 4 * width * attention + feed_forward
    encoder = INPUTS * (square + 2 * INPUTS * attention)
    cross = 2 * (TARGETS + INPUTS) * width * attention + 2 * TARGETS * INPUTS * attention
    decoder = TARGETS * (square + 2 * TARGETS * attention) + cross
    return encoder, decoder, TARGETS * width * VOCABULARY


@torch.inference_mode()
def measure(label: str, shape: Shape, v1_1: bool, rows: int, repeats: int) -> dict[str, float]:
    teacher = random_t5(shape, v1_1=v1_1)
    family, batch = family_of(teacher.config), random_batch(rows)
    cuts, mask = (shape.encoder_layers - 1, shape.decoder_layers - 1), batch["attention_mask"]
    inputs = with_decoder_inputs(teacher, batch)
    captured = capture(teacher, family, cuts, batch)
    tail = cut_tail(teacher, cuts)

    def forward() -> torch.Tensor:
        logits = teacher(**inputs, use_cache=False).logits
        wait()
        return logits

    def stacks() -> torch.Tensor:
        encoder_output = encode(teacher, mask, input_ids=batch["input_ids"])
        output = decode(
            teacher, encoder_output, mask, decoder_input_ids=inputs["decoder_input_ids"]
        )
        wait()
        return output

    def replay(*, logits: bool = False, encoder_output: bool = False) -> torch.Tensor:
        name = "encoder_output" if encoder_output else "encoder_states"
        output = tail.replay(
            captured.decoder_states, mask, **{name: getattr(captured, name)}
        ).decoder_output
        output = tail.head.logits(output) if logits else output
        wait()
        return output

    runs: dict[str, Callable[[], object]] = {
        "forward": forward,
        "stacks": stacks,
        "replay": replay,
        "replay_logits": lambda: replay(logits=True),
        "replay_from_encoder_output": lambda: replay(encoder_output=True),
    }
    if not torch.equal(replay(logits=True), forward()):
        raise SystemExit(f"{label}: the replayed logits are not the teacher's")
    seconds = common.best_times(runs, repeats)
    encoder, decoder, head = multiplications(shape, gated=v1_1)
    whole = shape.encoder_layers * encoder + shape.decoder_layers * decoder
    figures = {f"{label}_{name}_ms": best * 1e3 for name, best in seconds.items()}
    return figures | {
        f"{label}_parameters_billions": sum(weight.numel() for weight in teacher.parameters())
        / 1e9,
        f"{label}_forward_over_replay_ratio": seconds["stacks"] / seconds["replay"],
        f"{label}_forward_over_replay_from_encoder_output_ratio": seconds["stacks"]
        / seconds["replay_from_encoder_output"],
        f"{label}_forward_over_replay_with_logits_ratio": seconds["forward"]
        / seconds["replay_logits"],
        f"{label}_forward_over_replay_with_logits_ceiling": (whole + head)
        / (encoder + decoder + head),
    }


def main() -> None:
    args = common.parser(__doc__).parse_args()
    repeats = 2 if args.quick else 5
    base, big = T5_BASE, T5_3B
    if args.quick:
        base = replace(base, encoder_layers=4, decoder_layers=4)
        big = replace(big, encoder_layers=2, decoder_layers=2)
    figures = measure("t5_base", base, True, 1 if args.quick else 8, repeats)
    figures |= measure("t5_3b", big, False, 1, repeats)
    goals = {
        "t5_base_forward_over_replay_ratio": (">=", 10.0),
        "t5_3b_forward_over_replay_ratio": (">=", 15.0),
        "t5_3b_forward_over_replay_with_logits_ratio": (">=", 15.0),
    }
    if args.quick:
        goals = {}  # this few blocks cannot show them
    if device().type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    common.finish("cache_replay", figures, goals, args.json)


if __name__ == "__main__":
    main()
