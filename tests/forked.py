"""Start the real stage scripts without paying for their imports each time: forks of one zygote
(tests/zygote.py)."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.zygote import NUMBER

REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
#: Models this small are fastest on one thread, and threads that spin against each other are
#: slowest.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Process:
    """A started script with the methods of `subprocess.Popen` that tests use; its output goes to
    unnamed files."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        """command: the interpreter, a script and its arguments."""
        self.args = list(command)
        self.returncode: int | None = None
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._status, status = os.pipe()
        request = json.dumps([self.args, dict(environment), str(directory)]).encode()
        try:
            socket.send_fds(_zygote(), [request], [status, self._out.fileno(), self._err.fileno()])
        finally:
            os.close(status)
        self.pid = self._number()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._finish()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0, *self._outputs())
            self._finish()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self._outputs()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _finish(self) -> None:
        self.returncode = self._number()
        os.close(self._status)

    def _number(self) -> int:
        data = os.read(self._status, NUMBER.size)
        if not data:
            raise RuntimeError("the process that forks the stages is gone")
        return int(NUMBER.unpack(data)[0])

    def _outputs(self) -> tuple[str, str]:
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return texts[0], texts[1]


Started = Process | subprocess.Popen[str]


def start(
    command: Sequence[str],
    environment: Mapping[str, str] = ENVIRONMENT,
    directory: Path = REPOSITORY,
    *,
    fresh: bool = False,
) -> Started:
    """Start [PYTHON, SCRIPT, …]: in a fork where that is safe, else (or if `fresh`) as a process of
    its own."""
    assert command[0] == PYTHON
    if _forks_are_safe() and not fresh:
        return Process(command, environment, directory)
    return subprocess.Popen(
        command,
        env=dict(environment),
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(
    command: Sequence[str],
    environment: Mapping[str, str] = ENVIRONMENT,
    directory: Path = REPOSITORY,
    timeout: float = 300,
    *,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Start a command and wait for it to end; one that takes longer than `timeout` seconds is
    killed."""
    process = start(command, environment, directory, fresh=fresh)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


class Ranks:
    """The ranks of one training run, started and watched as torchrun does: when one fails, the
    others are ended."""

    def __init__(
        self, command: Sequence[str], world: int, environment: Mapping[str, str] = ENVIRONMENT
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
        }
        self.returncode: int | None = None
        self.ranks = [
            start(
                command,
                {
                    **environment,
                    **shared,
                    "MASTER_PORT": port,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                },
            )
            for rank in range(world)
        ]

    def poll(self) -> int | None:
        """The first exit code that is not 0, or 0 when all ranks ended well; None while the others
        still run."""
        codes = [rank.poll() for rank in self.ranks]
        if any(codes):
            return next(code for code in codes if code)
        return None if None in codes else 0

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the ranks; returns what they said, rank by rank, without ends of their own of
        those killed here."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise subprocess.TimeoutExpired(self.ranks[0].args, timeout, *self._outputs())
            time.sleep(0.01)
        self.returncode = self.poll()
        for rank in self.ranks:
            if rank.poll() is None:
                rank.send_signal(signal.SIGTERM)
        grace = time.monotonic() + 5
        while any(rank.poll() is None for rank in self.ranks) and time.monotonic() < grace:
            time.sleep(0.01)
        self.kill()
        return self._outputs()

    def kill(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.wait()

    def _outputs(self) -> tuple[str, str]:
        outputs = [rank.communicate() for rank in self.ranks]
        return "".join(out for out, _ in outputs), "".join(err for _, err in outputs)


@cache
def _forks_are_safe() -> bool:
    # CUDA cannot be used in a fork of a process that has touched it, and importing DeepSpeed may.
    return sys.platform == "linux" and not Path("/proc/driver/nvidia/version").exists()


@cache
def _zygote() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    quiet = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    process = subprocess.Popen(
        [PYTHON, str(REPOSITORY / "tests/zygote.py"), str(theirs.fileno())],
        env=ENVIRONMENT | quiet,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
