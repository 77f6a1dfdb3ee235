"""A real Slurm cluster on one machine: munged, slurmctld and two slurmd with the names n1 and n2.

Everything is on loopback, below one temporary directory, on ports that were free a moment ago, and
known by process id. The machine's own Slurm and munge, running or not, are left alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: Two nodes of two CPUs. `urgent` preempts `batch`: its jobs get SIGTERM and GRACE seconds to save.
NODES = ("n1", "n2")
GRACE = 60
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
#: In the environment of every process of a cluster: the cluster's directory.
_MARK = "MINIEND_TEST_CLUSTER"

_CONFIGURATION = """
ClusterName=miniend
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire: a requeued job waits this long before it starts again; the minimum is five seconds.
AuthInfo=socket={root}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={root}/state
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdSpoolDir={root}/spool-%n
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdLogFile={root}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000
PartitionName=batch Nodes=n[1-2] Default=YES PriorityTier=1 GraceTime={grace} State=UP
PartitionName=urgent Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing_programs() -> list[str]:
    """Return the programs of Slurm and munge that are not installed here."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class Cluster:
    """A running cluster: `with Cluster(directory) as cluster: cluster.run("sbatch", …)`.

    The directory's path must be short, as it holds unix sockets.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
            },
            "SLURM_CONF": str(root / "slurm.conf"),
            _MARK: str(root),
            "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        # Its standard input ends when this process does, however that ends; then it cleans up.
        self._keeper = subprocess.Popen(
            [sys.executable, __file__, str(self.root)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every job, every daemon and every process left of its children, by process id."""
        if len(self._daemons) > 1:
            self.run("scancel", "--full", "--signal=KILL", "--user=root", check=False)
            self.run("scancel", "--user=root", check=False)
            deadline = time.monotonic() + 15
            while (
                self.run("squeue", "-h", check=False).stdout.strip() and time.monotonic() < deadline
            ):
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons = []
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()

    def processes(self) -> list[int]:
        """Return the ids of the cluster's daemons, steps, commands and all their children."""
        return processes(self.root)

    def run(
        self, *command: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against this cluster."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=self.environment
        )
        assert not check or done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
        return done

    def job(self, identifier: str) -> dict[str, str]:
        """Return the fields of a job, by the names that `scontrol show job` prints."""
        shown = self.run("scontrol", "show", "job", "-o", identifier).stdout.splitlines()[0]
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait(
        self, event: str, condition: Callable[[], bool], timeout: float = 120, every: float = 0.05
    ) -> None:
        """Return once `condition` holds; else fail with the queue and the daemons' last lines."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                queue = self.run("squeue", "-r", "-t", "all", check=False).stdout
                raise AssertionError(
                    f"{event} did not happen in {timeout:.0f} s\n{queue}\n{self.last_lines()}"
                )
            time.sleep(every)

    def wait_for_jobs(self, timeout: float = 240) -> None:
        """Wait until no job is pending, running or completing."""
        self.wait(
            "the end of all jobs",
            lambda: not self.run("squeue", "-h").stdout.strip(),
            timeout,
            every=0.3,
        )

    def last_lines(self) -> str:
        """Return the last lines of every daemon's log."""
        logs = sorted(self.root.glob("*.log"))
        return "\n".join(
            f"{log.name}: {line}" for log in logs for line in log.read_text().splitlines()[-5:]
        )

    def _start(self) -> None:
        munge = self.root / "munge"
        munge.mkdir(mode=0o755)
        (munge / "key").write_bytes(secrets.token_bytes(128))
        (munge / "key").chmod(0o600)
        (self.root / "state").mkdir()
        for node in NODES:
            (self.root / f"spool-{node}").mkdir()
        configuration = _CONFIGURATION.format(
            root=self.root, host=_short_name(), ports=_free_ports(3), grace=GRACE
        )
        (self.root / "slurm.conf").write_text(configuration)
        files = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            *(f"--{name}={munge / file}" for name, file in files.items()),
        )
        self.wait("munge's socket", (munge / "socket").is_socket, timeout=20)
        self._daemon("slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"])
        self.wait("two idle nodes", self._idle, timeout=60)

    def _idle(self) -> bool:
        for daemon in self._daemons:
            assert daemon.poll() is None, (
                f"{daemon.args} ended with {daemon.returncode}\n{self.last_lines()}"
            )
        shown = self.run("sinfo", "-h", "-N", "-p", "batch", "-o", "%T", check=False)
        return shown.stdout.split() == ["idle"] * len(NODES)

    def _daemon(self, *command: str) -> None:
        log = open(self.root / f"{len(self._daemons)}-{Path(command[0]).name}.log", "wb")
        with log:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,
                )
            )


def processes(root: Path) -> list[int]:
    """Return the ids of all processes of the cluster in `root`."""
    mark = f"{_MARK}={root}".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                pids.append(int(entry.name))
        except OSError:
            continue  # ended meanwhile
    return pids


def _keep(root: Path) -> None:
    """Wait for the end of the process that started this; then end its cluster and remove `root`."""
    sys.stdin.read()
    while left := processes(root):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(root, ignore_errors=True)


def _short_name() -> str:
    return socket.gethostname().split(".", 1)[0]


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
