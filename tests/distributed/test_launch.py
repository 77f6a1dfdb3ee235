"""The launcher of a node: real torchrun, real ranks, real signals."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.errors import EXIT_REQUEUE
from tests.tiny_run import ENVIRONMENT, PYTHON, REPOSITORY

pytestmark = pytest.mark.slow


def _launch(tmp_path: Path, script: str) -> subprocess.Popen[str]:
    (tmp_path / "rank.py").write_text(script)
    command = [
        PYTHON,
        "-m",
        "pipeline.slurm.launch",
        "--logs",
        str(tmp_path / "logs"),
        "--processes",
        "2",
        "--",
    ]
    return subprocess.Popen(
        [*command, str(tmp_path / "rank.py"), "--flag", "a b"],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=REPOSITORY,
    )


def test_a_failing_rank_gives_the_exit_code_and_its_last_lines(tmp_path: Path) -> None:
    launcher = _launch(
        tmp_path,
        f"""import os, sys, time
printed = {str(tmp_path / "printed")!r}
if os.environ["RANK"] == "1":
    while not os.path.exists(printed):
        time.sleep(0.01)
    sys.exit("error: no such thing")
print("arguments", sys.argv[1:], flush=True)
open(printed, "w").close()
time.sleep(60)
""",
    )
    _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    assert "rank 1 | error: no such thing" in errors
    assert "rank 0 |" not in errors
    assert "arguments ['--flag', 'a b']" in (tmp_path / "logs/rank-00000.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_reaches_every_rank_and_their_exit_code_is_kept(
    number: signal.Signals, tmp_path: Path
) -> None:
    launcher = _launch(
        tmp_path,
        f"""import os, signal, sys, time
def save(number, frame):
    time.sleep(2 + int(os.environ["RANK"]))
    print("saved")
    sys.exit({EXIT_REQUEUE})
signal.signal(signal.SIGUSR1, save)
signal.signal(signal.SIGTERM, lambda number, frame: None)  # from torchrun, without the other
open({str(tmp_path)!r} + "/" + os.environ["RANK"] + ".ready", "w").close()
time.sleep(60)
""",
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.ready"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    launcher.send_signal(number)
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_REQUEUE, errors
    for rank in range(2):
        assert "saved" in (tmp_path / f"logs/rank-0000{rank}.log").read_text()


def test_a_signal_before_the_ranks_can_save_asks_for_a_requeue_too(tmp_path: Path) -> None:
    launcher = _launch(tmp_path, "import time; time.sleep(60)")
    while not list(tmp_path.glob("logs/rank-*.log")):
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(signal.SIGUSR1)
    launcher.communicate(timeout=60)
    assert launcher.returncode == EXIT_REQUEUE
