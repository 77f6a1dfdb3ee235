"""Shared parts of the benchmarks: arguments, timing, peak memory, goals, table and JSON."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import operator
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the arguments that every benchmark takes; add its own to them."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="end within a minute on two cores")
    result.add_argument(
        "--json", type=Path, metavar="OUT", help="write the figures there instead of a table"
    )
    return result


def best_times(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the shortest of `repeats` runs of each, in seconds, after one that does not count.

    The runs take turns, so another load on the machine disturbs all of them alike.
    The shortest run is the least disturbed.
    """
    best = dict.fromkeys(runs, float("inf"))
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_extra_bytes(prepare: Callable[..., Callable[[], object]], *args: object) -> int:
    """Return the peak resident memory of `prepare(*args)()` above what `prepare` left, in bytes.

    The kernel measures it (VmHWM), not torch's profiler.
    So the buffers of a matrix product or an allocator count too.
    It runs in a fresh process: memory that an earlier run freed but its allocator kept would hide
    the next run's use.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(send, prepare, args))
    process.start()
    send.close()
    try:
        return int(receive.recv())
    except EOFError:
        raise RuntimeError("the process that measures memory died") from None
    finally:
        process.join()


def _peak(
    send: Any, prepare: Callable[..., Callable[[], object]], args: tuple[object, ...]
) -> None:
    run = prepare(*args)
    before = status_bytes("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to VmRSS
    except OSError:
        # Where that is forbidden, VmHWM is the peak so far; `prepare` holds only its inputs.
        before = max(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    run()
    send.send(status_bytes("VmHWM") - before)


def cuda_figures(
    label: str, prepare: Callable[[str], Callable[[], float]], repeats: int, example: Any
) -> dict[str, float]:
    """Return time and peak memory on the GPU of three forms of a loss, and the ratios to plain.

    The forms are the plain one, the chunked PyTorch one and the fused kernel.
    prepare(form): gives the run of "plain", "chunked" or "kernel", which returns the loss.
    example: a tensor by which `kernels.usable` says whether kernels work here; where they do not,
    the kernel is left out. Memory is the allocator's peak above the inputs.
    Exits where the forms disagree.
    """
    import torch

    from pipeline.objectives import kernels

    os.environ.pop(kernels.SWITCH, None)  # each run sets it for its form
    forms = ["plain", "chunked", "kernel"] if kernels.usable(example) else ["plain", "chunked"]

    def timed(run: Callable[[], object]) -> Callable[[], None]:
        def until_done() -> None:
            run()
            torch.cuda.synchronize()

        return until_done

    runs = {form: prepare(form) for form in forms}
    values = {form: run() for form, run in runs.items()}
    if any(abs(value / values["plain"] - 1) > 0.01 for value in values.values()):
        raise SystemExit(f"the forms disagree on CUDA: {values}")
    seconds = best_times({form: timed(run) for form, run in runs.items()}, repeats)
    runs.clear()
    figures: dict[str, float] = {}
    for form in forms:
        run = prepare(form)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        timed(run)()
        figures[f"{label}_{form}_ms_cuda"] = seconds[form] * 1e3
        figures[f"{label}_{form}_peak_mib_cuda"] = (
            torch.cuda.max_memory_allocated() - before
        ) / 2**20
    for form in forms[1:]:
        for unit in ("ms", "peak_mib"):
            ratio = figures[f"{label}_{form}_{unit}_cuda"] / figures[f"{label}_plain_{unit}_cuda"]
            figures[f"{label}_{form}_{'time' if unit == 'ms' else 'peak'}_ratio_cuda"] = ratio
    return figures


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def environment() -> dict[str, Any]:
    """Return what the figures depend on, without naming the machine."""
    import torch

    versions = {"python": platform.python_version()}
    for package in ("torch", "deepspeed", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "versions": versions,
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    bf16 = any(
        "avx512_bf16" in line or "amx_bf16" in line for line in lines if line.startswith("flags")
    )
    return f"{name}, {'with' if bf16 else 'without'} bf16 products"


def _commit() -> str | None:
    root = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def finish(
    name: str, figures: dict[str, float], goals: dict[str, tuple[str, float]], out: Path | None
) -> bool:
    """Judge the figures, print a table or write the JSON; return whether every goal is met."""
    met = {
        figure: bool(OPERATORS[op](figures[figure], value)) for figure, (op, value) in goals.items()
    }
    result = {
        "benchmark": name,
        "figures": {figure: float(f"{value:.4g}") for figure, value in figures.items()},
        "goals": {figure: {"op": op, "value": value} for figure, (op, value) in goals.items()},
        "met": all(met.values()),
        "environment": environment(),
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
        return all(met.values())
    width = max(map(len, figures))
    for figure, value in figures.items():
        goal = ""
        if figure in goals:
            op, wanted = goals[figure]
            goal = f"  goal {op} {wanted:g}: {'met' if met[figure] else 'NOT MET'}"
        print(f"{figure:<{width}}  {value:>10.4g}{goal}")
    print(", ".join(f"{key}: {value}" for key, value in result["environment"].items()))  # type: ignore[attr-defined]
    return all(met.values())
