"""Stage scripts in parallel, as forks of this process, one core each.

A fork does not pay for the imports of a stage again.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import PipelineError
from pipeline.hardware import usable_cpus

REPOSITORY = Path(__file__).resolve().parents[2]
_LIBRARIES = (
    "torch",
    "torch.utils.tensorboard",
    "numpy",
    "safetensors.torch",
    "sentencepiece",
    "pydantic",
    "yaml",
    "tqdm",
    "transformers",
    "transformers.models.t5.modeling_t5",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "deepspeed",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    "scipy.stats",
    "sklearn.metrics",
    # DeepSpeed imports these when it makes an engine. They decorate with torch.compile, which
    # costs a second.
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
)


class Failed(PipelineError):
    """A stage ended with an exit code other than 0."""


class Command(NamedTuple):
    """A stage script with its arguments, and the file its output is added to."""

    stage: str
    arguments: Sequence[str]
    log: Path


#: Returns the next command of one unit of work, once the one before has ended; None at the end.
Work = Callable[[], Command | None]


def run_all(works: Iterable[Work], jobs: int, done: Callable[[], None] = lambda: None) -> None:
    """Run the commands of each work one after the other, and `jobs` works in parallel.

    done: called when a work has ended.
    Raises Failed when a command fails, after the running ones have ended. Finished work is kept.
    """
    waiting = iter(works)
    running: dict[int, tuple[Work, Command]] = {}
    failed: list[Command] = []
    exhausted = False

    def begin(work: Work) -> None:
        command = work()
        if command is None:
            done()
        else:
            running[_start(command)] = (work, command)

    try:
        while True:
            while len(running) < jobs and not exhausted and not failed:
                work = next(waiting, None)
                exhausted = work is None
                if work is not None:
                    begin(work)
            if not running:
                break
            pid, status = os.wait()
            if pid not in running:
                continue
            work, command = running.pop(pid)
            if os.waitstatus_to_exitcode(status):
                failed.append(command)
                continue
            if not failed:
                begin(work)
    except BaseException:
        for pid in running:
            os.kill(pid, signal.SIGTERM)  # the stage saves and exits
        raise
    if failed:
        lines = failed[0].log.read_text(errors="replace").splitlines()[-5:]
        raise Failed(
            f"{failed[0].stage} failed; its last lines ({failed[0].log}):\n" + "\n".join(lines)
        )


def prepare(threads: int) -> None:
    """Import what the stages import, so that forks have it already. threads: of each command."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not _forks_are_safe():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for library in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.collect()
    gc.freeze()


def _start(command: Command) -> int:
    script = REPOSITORY / "stages" / f"{command.stage}.py"
    command.log.parent.mkdir(parents=True, exist_ok=True)
    log = open(command.log, "ab")
    arguments = [str(script), *command.arguments]
    if not _forks_are_safe():
        with log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ).pid
    pid = os.fork()
    if pid:
        log.close()
        return pid
    code = 1
    try:
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.chdir(REPOSITORY)
        _become(arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _become(arguments: list[str]) -> None:
    import numpy as np
    import torch

    # torch read the variable long before it was set here.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    # Without this all forks of one process would draw the same numbers.
    np.random.seed(os.getpid() ^ int(time.time()))
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).parent)
    runpy.run_path(arguments[0], run_name="__main__")


def devices() -> int:
    """Return the number of ranks this machine has a device for: its GPUs, else its cores."""
    import torch

    return torch.cuda.device_count() or usable_cpus()


def _forks_are_safe() -> bool:
    # CUDA cannot be used in a fork of a process that has touched it, and importing DeepSpeed may.
    return sys.platform == "linux" and not Path("/proc/driver/nvidia/version").exists()
