"""Bytes of a cached token and target position for each kind of target and for peers; codec speed.

    python benchmarks/cache_size.py [--quick] [--json OUT]

Sizes are those of what the library's own functions return, for examples of 512 inputs and 114
targets. Sampled targets are 50 draws a position from softmax(logits / temperature), with the
temperature set so that about 12 of them differ. There are two teachers:

- `language`: logits -ln(rank) + 3 × normal noise. Low ids are frequent, as SentencePiece numbers
  them.
- `uniform`, the worst case: the same draws, with each position's ids replaced by random ones.

`bound` is the information in the same number of uniform ids and in how the draws divide among
them, if all divisions were equally likely. Speeds are one core's, an example at a time.

Peers: DistillKit by the formula of its compression/config.py, for the two configurations that its
README recommends. Megatron-LM by 5 bytes an entry (fp16, uint16, bool) before compression; it
refuses mT5's vocabulary.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks import common
from pipeline.teacher.codec import Targets, count_draws, decode, encode, pad_targets
from pipeline.teacher.quantise import quantise
from pipeline.teacher.sampling import sample_targets, uniforms
from pipeline.teacher.topk import top_k_targets

INPUTS, POSITIONS, DRAWS, UNIQUE, TOP = 512, 114, 50, 12, 50
WIDTHS = {"t5_base": 768, "t5_large": 1024, "t5_3b": 1024}
VOCABULARIES = {"t5": 32_128, "mt5": 250_112}
#: k, exact values in bf16, polynomial terms in fp32.
DISTILLKIT = {"recommended": (128, 16, 6), "budget": (50, 1, 3)}


def teacher_logits(vocabulary: int, example: int) -> torch.Tensor:
    noise = torch.randn(POSITIONS, vocabulary, generator=torch.Generator().manual_seed(example))
    return 3.0 * noise - torch.arange(1, vocabulary + 1).log()


def calibrated_temperature(vocabulary: int) -> float:
    """Return the temperature at which UNIQUE different tokens are expected among the draws."""
    logits = torch.cat([teacher_logits(vocabulary, example)[::4] for example in range(4)])
    low, high = 0.2, 2.0
    for _ in range(12):
        middle = (low + high) / 2
        seen = -torch.expm1(DRAWS * torch.log1p(-(logits / middle).softmax(-1))).sum(-1).mean()
        low, high = (middle, high) if seen < UNIQUE else (low, middle)
    return low


def with_random_ids(targets: Targets, vocabulary: int, seed: int) -> Targets:
    rng = np.random.default_rng(seed)
    ids = [
        np.sort(rng.choice(vocabulary, n, replace=False, shuffle=False)) for n in targets.lengths
    ]
    return targets._replace(ids=np.concatenate(ids))


def state_figures() -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, width in WIDTHS.items():
        states = torch.randn(INPUTS + POSITIONS, width)
        for dtype, stored in (
            ("fp32", (states,)),
            ("bf16", (states.bfloat16(),)),
            ("int8", quantise(states)),
        ):
            figures[f"states_{dtype}_{name}_bytes_per_token"] = sum(
                part.nbytes for part in stored
            ) / len(states)
    return figures


def sparse_figures(name: str, examples: int, repeats: int) -> dict[str, float]:
    vocabulary = VOCABULARIES[name]
    temperature = calibrated_temperature(vocabulary)
    drawn = [
        count_draws(
            sample_targets(
                teacher_logits(vocabulary, e), uniforms(0, 0, e, POSITIONS, DRAWS), temperature
            )
        )
        for e in range(examples)
    ]
    total = examples * POSITIONS
    figures = {
        f"sampled_{name}_ids_per_position": sum(len(targets.ids) for targets in drawn) / total
    }
    cases = {
        "language": drawn,
        "uniform": [with_random_ids(t, vocabulary, e) for e, t in enumerate(drawn)],
    }
    for case, targets in cases.items():
        data = [encode(part, DRAWS) for part in targets]

        def read(data: list[bytes] = data, vocabulary: int = vocabulary) -> list[Targets]:
            return [
                decode(part, draws=DRAWS, positions=POSITIONS, vocab_size=vocabulary)
                for part in data
            ]

        def write(targets: list[Targets] = targets) -> list[bytes]:
            return [encode(part, DRAWS) for part in targets]

        for decoded, original in zip(read(), targets, strict=True):
            if not all(np.array_equal(a, b) for a, b in zip(decoded, original, strict=True)):
                raise SystemExit("the codec lost something")
        seconds = common.best_times({"decode": read, "encode": write}, repeats)
        figures[f"sampled_{name}_{case}_bytes_per_position"] = sum(map(len, data)) / total
        for job, best in seconds.items():
            figures[f"sampled_{name}_{case}_{job}_positions_per_s"] = total / best
    mask = torch.ones(examples, POSITIONS)
    seconds = common.best_times({"pad": lambda: pad_targets(drawn, mask)}, repeats)
    figures[f"sampled_{name}_pad_positions_per_s"] = total / seconds["pad"]
    lengths = np.concatenate([targets.lengths for targets in drawn]).tolist()
    bits = [
        math.log2(math.comb(vocabulary, n)) + math.log2(math.comb(DRAWS - 1, n - 1))
        for n in lengths
    ]
    figures[f"sampled_{name}_bound_bytes_per_position"] = sum(bits) / total / 8
    top = top_k_targets(teacher_logits(vocabulary, 0), TOP)
    figures[f"topk{TOP}_{name}_bytes_per_position"] = sum(part.nbytes for part in top) / POSITIONS
    return figures


def peer_figures(name: str) -> dict[str, float]:
    vocabulary = VOCABULARIES[name]
    figures = {}
    for configuration, (k, exact, terms) in DISTILLKIT.items():
        indices = -(-k * (vocabulary - 1).bit_length() // 8)
        figures[f"distillkit_{configuration}_{name}_bytes_per_position"] = (
            indices + 2 * exact + 4 * terms
        )
    if vocabulary <= 131_072:
        figures[f"megatron_top{TOP}_{name}_bytes_per_position"] = 5 * TOP
    figures[f"logits_bf16_{name}_bytes_per_position"] = 2 * vocabulary
    return figures


def main() -> None:
    args = common.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    figures, goals = state_figures(), {}
    for name in VOCABULARIES:
        figures |= sparse_figures(name, *((4, 10) if args.quick else (16, 40))) | peer_figures(name)
        for case in ("language", "uniform"):
            goals[f"sampled_{name}_{case}_bytes_per_position"] = ("<=", 30.0)
            goals[f"sampled_{name}_{case}_decode_positions_per_s"] = (">=", 200_000.0)
    ours = figures["sampled_t5_language_bytes_per_position"]
    figures["distillkit_budget_over_sampled_t5_ratio"] = (
        figures["distillkit_budget_t5_bytes_per_position"] / ours
    )
    figures["megatron_top50_over_sampled_t5_ratio"] = (
        figures["megatron_top50_t5_bytes_per_position"] / ours
    )
    goals["sampled_t5_language_bytes_per_position"] = ("<=", 24.0)
    common.finish("cache_size", figures, goals, args.json)


if __name__ == "__main__":
    main()
