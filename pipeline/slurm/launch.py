"""torchrun for one node of a job, with signals for every rank, a log a rank, and exit codes kept.

    srun --ntasks-per-node 1 python -m pipeline.slurm.launch --logs DIR --processes 8 \\
        -- stages/distill.py --recipe R.yaml

One launcher runs on each node (SLURM_NNODES, SLURM_NODEID). The launchers of several nodes meet by
c10d rendezvous on the first node, at MINIEND_RENDEZVOUS (host:port). Rank r appends to
DIR/rank-0000r.log.

Plain torchrun dies of SIGUSR1. On SIGTERM it ends its ranks after 30 s, even if they are still
saving, and it always exits with 1 when a rank fails. Slurm signals some or all processes of a step,
depending on how it tracks them. Either works here: this process passes the signal to the ranks, the
torchrun below it ignores signals, and a rank that gets a signal twice takes it as one.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeline.errors import EXIT_REQUEUE

#: Number of lines of a failing rank's log that the job's output repeats.
LAST_LINES = 20
_STOP = (signal.SIGUSR1, signal.SIGTERM)
#: Exit codes of a rank that was asked to stop: it saved, or had nothing to save yet.
_STOPPED = {EXIT_REQUEUE, -signal.SIGUSR1, -signal.SIGTERM}
#: torchrun itself failed, most often because that of another node was gone first. It is sysexits'
#: EX_SOFTWARE, which no stage uses.
_LOST = 70
# exec: the rank itself gets the signals and gives the exit code. $0 is the directory of the logs.
_RANK = """exec >>"$(printf '%s/rank-%05d.log' "$0" "$RANK")" 2>&1
echo "== rank $RANK of $WORLD_SIZE on ${SLURMD_NODENAME:-$(hostname)}, \
job ${SLURM_JOB_ID:-none}, restart ${SLURM_RESTART_COUNT:-0}"
exec "$@" """


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the ranks of this node and exit with their exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.slurm.launch", allow_abbrev=False)
    parser.add_argument("--logs", type=Path, required=True, help="directory of the ranks' logs")
    parser.add_argument("--processes", type=int, default=1, help="ranks on this node")
    parser.add_argument("command", nargs="+", help="-- script.py argument …")
    arguments = parser.parse_args(argv)
    arguments.logs.mkdir(parents=True, exist_ok=True)
    agent = os.fork()
    if agent == 0:
        for number in _STOP:
            # Not SIG_IGN, which the ranks would inherit.
            signal.signal(number, lambda number, frame: None)
        os._exit(_run_agent(arguments.logs, arguments.processes, arguments.command))
    sys.exit(_watch(agent))


def _watch(agent: int) -> int:
    """Wait for the torchrun process `agent`, passing signals to its ranks.

    Returns the exit code of this node.
    """
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    for number in _STOP:
        signal.signal(number, note)
    signalled: set[int] = set()
    while True:
        ended, status = os.waitpid(agent, os.WNOHANG)
        if ended:
            break
        if signals:
            # Each rank once, and also the ranks that torchrun starts only after the signal.
            for rank in set(_ranks(agent)) - signalled:
                _ask_to_stop(rank)
                signalled.add(rank)
        time.sleep(0.1)
    code = _shell_code(os.waitstatus_to_exitcode(status))
    if signals and code in {_LOST, *map(_shell_code, _STOPPED)}:
        return EXIT_REQUEUE
    return 1 if code == _LOST else code


def _run_agent(logs: Path, processes: int, command: list[str]) -> int:
    """Run torchrun in this process.

    Returns the exit code of the rank that failed first, 75 when ranks merely stopped.
    """
    # The launcher that leaves last finds the rendezvous gone and would print a C++ stack trace that
    # means nothing. The ranks keep their own level.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if os.environ["TORCH_CPP_LOG_LEVEL"] == "ERROR":
        del os.environ["TORCH_CPP_LOG_LEVEL"]
    logging.getLogger("torch.distributed.elastic.rendezvous").setLevel(logging.ERROR)
    options = [*_rendezvous(), f"--nproc-per-node={processes}", "--no-python"]
    if "--signals-to-handle" in run.get_args_parser().format_help():
        # Leave SIGTERM to the handler above. An older torchrun ends its ranks 30 s after SIGTERM.
        options.append("--signals-to-handle=SIGINT")
    rank_command = ["bash", "-c", _RANK, str(logs), sys.executable, "-u", *command]
    try:
        run.run(run.parse_args([*options, *rank_command]))
    except ChildFailedError as error:
        # The first failure is the cause: a rank may fail because another one stopped on a signal.
        failures = sorted(error.failures.items(), key=lambda failure: failure[1].timestamp)
        cause = failures[0][1].exitcode
        for rank, failure in failures if cause not in _STOPPED else ():
            if failure.exitcode not in _STOPPED:  # else torchrun ended it because of the other
                _show_log(logs / f"rank-{rank:05d}.log", rank, failure.exitcode)
        return _shell_code(cause)
    except Exception as error:
        print(
            f"torchrun on {os.environ.get('SLURMD_NODENAME', 'this node')}: {error}",
            file=sys.stderr,
            flush=True,
        )
        return _LOST
    return 0


def _rendezvous() -> list[str]:
    """Return the torchrun options for where the launchers meet."""
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    if nodes == 1:
        return ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    first = int(os.environ["SLURM_NODEID"]) == 0
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    identity = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}.{restart}"
    return [
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={os.environ['MINIEND_RENDEZVOUS']}",
        f"--rdzv-id={identity}",
        f"--rdzv-conf=is_host={'true' if first else 'false'}",
    ]


def _ranks(agent: int) -> list[int]:
    """Return the process ids of the children of `agent` that are ranks."""
    ranks = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == agent and b"LOCAL_RANK=" in (stat.parent / "environ").read_bytes():
                ranks.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue  # ended meanwhile
    return ranks


def _ask_to_stop(rank: int) -> None:
    try:
        os.kill(rank, signal.SIGUSR1)
    except ProcessLookupError:
        return


def _show_log(log: Path, rank: int, code: int) -> None:
    lines: deque[str] = deque(maxlen=LAST_LINES)
    if log.is_file():
        with open(log, encoding="utf-8", errors="replace") as handle:
            lines.extend(handle)
    print(f"rank {rank} ended with {code}; the last lines of {log}:", file=sys.stderr)
    for line in lines:
        print(f"  rank {rank} | {line.rstrip()}", file=sys.stderr)
    sys.stderr.flush()


def _shell_code(code: int) -> int:
    """Return an exit code as a shell gives it: 128 + n for an end by signal n."""
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
