"""Exactness of replay: every family, in bf16 and fp32, at the last block and at a deeper cut.

    python benchmarks/cache_fidelity.py [--quick] [--json OUT]

The deeper cut differs between the stacks. The models are random ones of the real classes, with
4 + 3 blocks of width 256 (`--quick`: 64); every weight is drawn so that none is idle.
There are 8 rows of 64 and 32 tokens with padding.
A figure is the largest absolute difference from the live teacher over q, k and v of the three
attentions, the encoder's output and the logits, each divided by the teacher's largest value of
that tensor.

- `<family>_<dtype>_<cut>_same_shape`: replayed in the batch that was captured; must be exactly 0.
- `…_other_shape`: the larger error of the same states replayed 3 rows at a time, and row by row
  with the input's padding cut off. There products and sums may be taken in another order, which
  depends on the machine: compare with `bf16_epsilon` and `fp32_epsilon`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import common
from pipeline.families import Attention, family_of
from pipeline.families.recorder import QKV, Recorder
from pipeline.teacher.capture import capture
from pipeline.teacher.tail import Tail, load_tail, save_tail
from tests.tiny_models import MODELS, tiny_batch, tiny_model

ROWS, INPUT_LENGTH, LABEL_LENGTH = 8, 64, 32
WIDTHS = {"d_model": 256, "d_ff": 1024, "num_heads": 8, "d_kv": 32}
CUTS = {"last": (3, 2), "deeper": (1, 0)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

States = tuple[torch.Tensor, torch.Tensor]
Tensors = dict[str, torch.Tensor]


def named(
    logits: torch.Tensor, encoder_output: torch.Tensor, recorded: dict[Attention, QKV]
) -> Tensors:
    projections = {f"{a}.{part}": t for a, qkv in recorded.items() for part, t in qkv.items()}
    return {"logits": logits, "encoder_output": encoder_output, **projections}


def error(
    tail: Tail, states: States, mask: torch.Tensor, rows: slice, length: int, live: Tensors
) -> float:
    """Return the error of replaying some rows with the first `length` input positions."""
    encoder, decoder = states
    replayed = tail.replay(
        decoder[rows], mask[rows, :length], encoder_states=encoder[rows, :length]
    )
    replayed_tensors = named(
        tail.head.logits(replayed.decoder_output), replayed.encoder_output, replayed.projections
    )
    assert replayed_tensors.keys() == live.keys()
    assert len(live) == 11, "q, k, v of three attentions, encoder output, logits"
    return max(
        float((tensor - live[name][rows, : tensor.shape[1]]).abs().max() / live[name].abs().max())
        for name, tensor in replayed_tensors.items()
    )


@torch.inference_mode()
def measure(
    name: str, dtype: torch.dtype, cuts: tuple[int, int], widths: dict[str, int]
) -> tuple[float, float]:
    """Return (error in the same batch shape, largest error in others)."""
    teacher = tiny_model(name, dtype, widths=widths).to(DEVICE)
    family = family_of(teacher.config)
    batch = {
        key: value.to(DEVICE) for key, value in tiny_batch(ROWS, INPUT_LENGTH, LABEL_LENGTH).items()
    }
    mask, captured = batch["attention_mask"], capture(teacher, family, cuts, batch)
    states = captured.encoder_states, captured.decoder_states
    blocks: dict[Attention, int] = {
        "encoder_self": cuts[0],
        "decoder_self": cuts[1],
        "cross": cuts[1],
    }
    with Recorder(teacher, family, blocks) as recorder:
        output = teacher(**batch, use_cache=False)
    live = named(output.logits, output.encoder_last_hidden_state, recorder.projections)
    with tempfile.TemporaryDirectory() as directory:
        save_tail(teacher, cuts, Path(directory) / "tail")
        tail = load_tail(Path(directory) / "tail", DEVICE)
    same = error(tail, states, mask, slice(0, ROWS), INPUT_LENGTH, live)
    others = [(slice(start, start + 3), INPUT_LENGTH) for start in range(0, ROWS, 3)]
    others += [(slice(row, row + 1), int(mask[row].sum())) for row in range(ROWS)]
    return same, max(error(tail, states, mask, rows, length, live) for rows, length in others)


def main() -> None:
    args = common.parser(__doc__).parse_args()
    widths = {} if args.quick else WIDTHS
    figures: dict[str, float] = {}
    goals: dict[str, tuple[str, float]] = {}
    for name in MODELS:
        for word, dtype in DTYPES.items():
            for cut, cuts in CUTS.items():
                label = f"{name}_{word}_{cut}".replace("-", "_")
                figures[f"{label}_same_shape"], figures[f"{label}_other_shape"] = measure(
                    name, dtype, cuts, widths
                )
                goals[f"{label}_same_shape"] = ("==", 0.0)
    for word, dtype in DTYPES.items():
        mine = [figure for figure in figures if f"_{word}_" in figure]
        for shape in ("same_shape", "other_shape"):
            figures[f"{word}_largest_{shape}"] = max(
                figures[figure] for figure in mine if figure.endswith(shape)
            )
        figures[f"{word}_epsilon"] = torch.finfo(dtype).eps
    common.finish("cache_fidelity", figures, goals, args.json)


if __name__ == "__main__":
    main()
