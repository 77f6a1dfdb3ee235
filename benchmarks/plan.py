"""Predictions of `miniend plan` against a real training step: operations and peak memory of a rank.

    python benchmarks/plan.py [--quick] [--json OUT]

A student of 6+6 blocks of T5-base's widths, and the demo's student, take real steps with DeepSpeed
on the CPU, alone and on two ranks (`--quick`: only the demo's student).

Memory is the most bytes of tensors alive at once in the second step, counted by storage as they
are made and freed. `backward_peak` is the most before the optimizer's step, where activations
decide. Operations are those of one forward and backward pass, as `torch.utils.flop_counter`
counts them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common
from pipeline import ranks
from pipeline.families import Shape

REPOSITORY = Path(__file__).resolve().parent.parent
#: name → (shape, vocabulary, input and target length, micro batch, DeepSpeed JSON, dtype, ranks)
RUNS: dict[str, tuple[Shape, int, tuple[int, int], int, str, str, int]] = {
    "demo": (Shape(1, 1, 256, 512, 4, 64), 2112, (128, 92), 32, "zero3_cpu", "bfloat16", 1),
    "demo_2_ranks": (Shape(1, 1, 256, 512, 4, 64), 2112, (128, 92), 16, "zero3_cpu", "bfloat16", 2),
    "t5_base_6_6": (Shape(6, 6, 768, 2048, 12, 64), 32128, (512, 114), 4, "zero3", "bfloat16", 1),
    "t5_base_6_6_2_ranks": (
        Shape(6, 6, 768, 2048, 12, 64),
        32128,
        (512, 114),
        2,
        "zero3",
        "bfloat16",
        2,
    ),
    "t5_base_6_6_float32": (
        Shape(6, 6, 768, 2048, 12, 64),
        32128,
        (512, 114),
        1,
        "zero3",
        "float32",
        1,
    ),
}


def main() -> None:
    arguments = common.parser(__doc__)
    arguments.add_argument("--rank-of", help="internal: run one rank")
    chosen = arguments.parse_args()
    if chosen.rank_of:
        _rank(chosen.rank_of)
        return
    figures: dict[str, float] = {}
    goals: dict[str, tuple[str, float]] = {}
    for name in RUNS:
        if chosen.quick and not name.startswith("demo"):
            continue
        measured, planned = _measure(name), _planned(name)
        for what in ("peak_bytes", "backward_peak_bytes", "operations"):
            if what == "operations" and "ranks" in name:
                continue
            figures[f"{name}_{what}_measured"] = measured[what]
            ratio = planned[what] / measured[what]
            figures[f"{name}_{what}_planned_over_measured_ratio"] = ratio
            # One figure for which a goal can be set from both sides.
            figures[f"{name}_{what}_off_by_share"] = abs(ratio - 1)
            if (what, RUNS[name][5]) != ("backward_peak_bytes", "float32"):
                # In float32 DeepSpeed holds more before the optimizer's step than planned,
                # but less than in that step.
                goals[f"{name}_{what}_off_by_share"] = ("<=", 0.1)
        figures[f"{name}_held_bytes_planned_over_measured_ratio"] = (
            planned["held_bytes"] / measured["held_bytes"]
        )
    if not common.finish("plan", figures, goals, chosen.json):
        sys.exit(1)


def _planned(name: str) -> dict[str, float]:
    """Return the figures by the functions that `miniend plan` uses."""
    import torch

    from pipeline.families.t5 import T5
    from pipeline.models.architecture import Architecture
    from pipeline.planning.memory import rank_memory
    from pipeline.planning.step import step_bytes
    from pipeline.recipe import Cache
    from pipeline.training.configuration import read_deepspeed_json

    shape, vocabulary, lengths, micro, deepspeed, dtype, ranks = RUNS[name]
    student = Architecture.of(T5().new_config(shape, vocabulary))
    compute = getattr(torch, dtype)
    step = step_bytes(
        _settings(name),
        Cache(),
        student,
        None,
        rows=micro,
        lengths=lengths,
        dtype=compute,
        teacher_dtype=compute,
        on_cpu=True,
    )
    batch = 8.0 * micro * (2 * lengths[0] + lengths[1])
    config = read_deepspeed_json(f"ds_configs/{deepspeed}.json")
    memory = rank_memory(config, student.size.total, ranks, dtype, step, batch)
    operations = micro * student.training_flops(*lengths).total
    return {
        "peak_bytes": memory.peak,
        "backward_peak_bytes": memory.held + memory.activations,
        "held_bytes": memory.held,
        "operations": operations,
    }


def _measure(name: str) -> dict[str, float]:
    """Take two steps on the number of ranks that `name` says; return the largest figures."""
    ranks = RUNS[name][-1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        processes = []
        for rank in range(ranks):
            environment = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "PYTHONPATH": str(REPOSITORY),
            }
            command = [
                sys.executable,
                str(Path(__file__).resolve()),
                "--rank-of",
                f"{name}:{directory}",
            ]
            processes.append(
                subprocess.Popen(
                    command, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL
                )
            )
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit(f"{name}: a rank failed")
        found = [
            json.loads((Path(directory) / f"{rank}.json").read_text()) for rank in range(ranks)
        ]
    return {key: max(one[key] for one in found) for key in found[0]}


def _settings(name: str) -> Any:
    from pipeline.recipe import Distill, Objective

    _, _, _, micro, deepspeed, dtype, ranks = RUNS[name]
    return Distill(
        objective=Objective(preset="lm"),
        batch_size=micro * ranks,
        micro_batch_size=micro,
        dtype=dtype,  # type: ignore[arg-type]
        deepspeed=f"ds_configs/{deepspeed}.json",
    )


def _rank(argument: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline.distillation.distiller import Distiller
    from pipeline.families.t5 import T5
    from pipeline.models import open_model
    from pipeline.models.architecture import Architecture
    from pipeline.planning.live import LiveBytes
    from pipeline.student.initial import write_initial_student
    from pipeline.training import distributed
    from pipeline.training.engine import initialize, load_model

    name, directory = argument.split(":")
    shape, vocabulary, lengths, micro, *_ = RUNS[name]
    settings, initial = _settings(name), Path(directory) / "initial"
    distributed.setup()
    if ranks.rank() == 0:
        student = Architecture.of(T5().new_config(shape, vocabulary))
        write_initial_student(student, None, None, 0, initial)
    ranks.barrier()
    generator = torch.Generator().manual_seed(ranks.rank())
    with LiveBytes() as live:
        distiller = Distiller(
            load_model(open_model(str(initial)), settings), settings.objective, [], 2
        )
        engine = initialize(distiller, settings)
        source = torch.randint(3, vocabulary - 100, (micro, lengths[0]), generator=generator)
        target = torch.randint(3, vocabulary - 100, (micro, lengths[1]), generator=generator)
        batch = {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": target}
        operations = 0
        for step in range(2):
            live.peak = live.now
            with FlopCounterMode(display=False) as counter:
                loss = engine(batch=batch, step=step)["loss"]
                engine.backward(loss)
            operations = counter.get_total_flops()
            del loss
            backward = live.peak
            engine.step()
        found = {
            "peak_bytes": live.peak,
            "backward_peak_bytes": backward,
            "held_bytes": live.now,
            "operations": operations,
        }
    (Path(directory) / f"{ranks.rank()}.json").write_text(json.dumps(found))
    distributed.shutdown()


if __name__ == "__main__":
    main()
