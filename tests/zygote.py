"""`python zygote.py FD`: a process with the heavy imports behind it that forks a child for each
script asked for over FD.

Only libraries are imported here, none of the project's modules, and no thread is started. A child
leads a session of its own and runs the script as `python SCRIPT …` would: same `sys.argv`,
environment, directory, signals, exit code and messages.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
from pathlib import Path

_LIBRARIES = (
    "torch",
    "torch.utils.tensorboard",
    "numpy",
    "scipy.special",
    "safetensors.torch",
    "tokenizers",
    "sentencepiece",
    "pydantic",
    "yaml",
    "tqdm",
    "setuptools",
    "transformers",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.t5.modeling_t5",
    "deepspeed",
    "deepspeed.checkpoint",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    # What DeepSpeed imports when an engine is made; some of it decorates with torch.compile, which
    # costs a second.
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.superoffload.superoffload_stage3",
    "deepspeed.module_inject.auto_ep_layer",
)
#: What a request is answered with: the child's pid at once, and its exit code once it is gone.
NUMBER = struct.Struct("i")


def main() -> None:
    server = socket.socket(fileno=int(sys.argv[1]))
    server.set_inheritable(False)
    for library in _LIBRARIES:
        with contextlib.suppress(
            ImportError
        ):  # not in every release: a fork then imports what it needs itself
            importlib.import_module(library)
    threads = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, f"a fork would copy one thread of {threads}"
    # Collecting in a child would copy every page that the parent shares with it.
    gc.collect()
    gc.freeze()
    request = _serve(server)
    if request is not None:
        _become(*request)


def _serve(server: socket.socket) -> tuple[list[str], dict[str, str], str] | None:
    """Answer requests; returns one in the child that is to run it, and None when the tests are
    gone."""
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    ready = selectors.DefaultSelector()
    ready.register(server, selectors.EVENT_READ)
    ready.register(woken, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj == woken:
                os.read(woken, 4096)
                _reap(running)
                continue
            data, descriptors, *_ = socket.recv_fds(server, 1 << 20, 3)
            if not data:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                return None
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                ready.close()
                for descriptor in (woken, waker, *running.values()):
                    os.close(descriptor)
                server.close()
                _redirect(*descriptors)
                command, environment, directory = json.loads(data)
                return command, environment, directory
            status, *others = descriptors
            os.write(status, NUMBER.pack(pid))
            running[pid] = status
            for descriptor in others:
                os.close(descriptor)


def _reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        descriptor = running.pop(pid)
        os.write(descriptor, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(descriptor)


def _redirect(status: int, out: int, err: int) -> None:
    os.close(status)
    os.setsid()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)


def _become(command: list[str], environment: dict[str, str], directory: str) -> None:
    import numpy as np

    np.random.seed()  # forks of one process would all draw the same numbers
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = command[1:]
    sys.path[0] = str(Path(command[1]).resolve().parent)
    runpy.run_path(command[1], run_name="__main__")


if __name__ == "__main__":
    main()
