"""A real Slurm of virtual nodes on one machine, for a normal user: to learn on, to test on.

    python -m trialign.slurm.minicluster start DIR [--nodes 3] [--cpus 2] [--gpus 0] [--no-requeue]
    eval "$(python -m trialign.slurm.minicluster env DIR)"        sbatch, squeue and trialign then speak to it
    python -m trialign.slurm.minicluster status DIR
    python -m trialign.slurm.minicluster kill-node DIR n2         a node fails: its slurmd and its jobs are killed
    python -m trialign.slurm.minicluster start-node DIR n2
    python -m trialign.slurm.minicluster stop DIR

Needs the packages slurmctld, slurmd, slurm-client and munge (Debian and Ubuntu). Configuration, key, logs and process
numbers live in DIR; everything listens on loopback; there is no accounting, no cgroup, no systemd. Partition `low` can
be preempted by `high`. With `--no-requeue` no job may be queued again, as on clusters that forbid it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from trialign.errors import TrialignError
from trialign.lock import started

_MARK = "TRIALIGN_MINICLUSTER_NODE"
"""In the environment of a node's slurmd, and so of its slurmstepds: by it they are found when the node is to fail."""

_CONFIGURATION = """\
ClusterName=minicluster
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
# Loopback only.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A job that is queued again waits as long as its old credential lives: two minutes unless told otherwise.
AuthInfo=socket={socket},cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
# What a laptop's user may do: no cgroups, no pinning, no accounting.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
# Nodes have what is written here, whatever the machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
# A silent node counts as failed after this many seconds; real clusters wait five minutes.
SlurmdTimeout=15
KillWait=5
JobRequeue=1
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# A job that is preempted first receives the signal that it asked for.
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
{plugins}NodeName=DEFAULT CPUs={cpus} CoresPerSocket={cpus} RealMemory=64000 {gres}State=UNKNOWN
{nodes}
PartitionName=low Default=YES Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=INFINITE DefaultTime=60
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE DefaultTime=60
"""


_FORBID_REQUEUE = """\
-- Slurm's own JobRequeue=0 is a default, which `sbatch --requeue` overrides; a site that forbids it does so here.
function slurm_job_submit(job, partitions, user)
    job.requeue = 0
    return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, user)
    return slurm.SUCCESS
end
"""


class MiniclusterError(TrialignError):
    """The cluster cannot be started."""


class Minicluster:
    """The cluster of one folder.

    Args:
        folder: made by `start`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.configuration = self.folder / "slurm.conf"
        self._record = self.folder / "processes.json"

    def start(
        self, *, nodes: int = 3, cpus: int = 2, gpus: int = 0, requeue: bool = True, timeout: float = 60.0
    ) -> None:
        """Start munge, the controller and the nodes, and wait until the nodes are idle; or find them running.

        Args:
            nodes: how many.
            cpus: of each.
            gpus: of each; names without a device.
            requeue: whether jobs may be queued again.
            timeout: seconds until the nodes must be idle.

        Raises:
            MiniclusterError: half of it runs, a program is missing, or the nodes are not idle in time.
        """
        alive = [self._alive(name) for name in self._processes()]
        if alive and all(alive):
            return
        if any(alive):
            raise MiniclusterError(
                f"some processes of the cluster in {self.folder} are gone, others run",
                rule="a cluster is started as a whole",
                remedy="see `status`; `stop` it, then start it again",
            )
        programs = {name: _find(name) for name in ("munged", "slurmctld", "slurmd", "sinfo")}
        shutil.rmtree(self.folder, ignore_errors=True)
        names = [f"n{number}" for number in range(1, nodes + 1)]
        for part in ("state", "log", *(f"spool/{name}" for name in names)):
            (self.folder / part).mkdir(parents=True)
        # The path of a socket has at most 107 characters, and munge requires safe folders above it.
        sockets = Path(tempfile.mkdtemp(prefix="minicluster-"))
        sockets.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._configure(names, cpus, gpus, sockets / "munge", requeue=requeue)
        flags = {
            "key-file": key,
            "socket": sockets / "munge",
            "pid-file": self.folder / "munged.pid",
            "seed-file": self.folder / "munge.seed",
            "log-file": self.folder / "log" / "munged.log",
        }
        end = time.monotonic() + timeout
        try:
            munged = [programs["munged"], "--foreground", "--force", *(f"--{k}={v}" for k, v in flags.items())]
            self._launch("munged", munged)
            self._wait(end, (sockets / "munge").exists)
            self._launch("slurmctld", [programs["slurmctld"], "-D", "-i", "-f", str(self.configuration)])
            for name in names:
                self.start_node(name)
            self._wait(end, lambda: self._idle() == names)
        except BaseException:
            self.stop()
            raise

    def start_node(self, name: str) -> None:
        """Start a node."""
        mark = {_MARK: f"{self.folder}/{name}"}
        self._launch(f"slurmd.{name}", [_find("slurmd"), "-D", "-N", name, "-f", str(self.configuration)], mark)

    def kill_node(self, name: str) -> None:
        """Make a node fail: kill its slurmd and its jobs by SIGKILL."""
        self._kill(f"slurmd.{name}")
        for process in self._job_processes(name):
            _send(process, signal.SIGKILL)

    def stop(self) -> None:
        """End all jobs, then the processes that `start` made and no others."""
        for name in [name for name in self._processes() if name.startswith("slurmd.")]:
            self.kill_node(name.removeprefix("slurmd."))
        for name in ("slurmctld", "munged"):
            self._kill(name, signal.SIGTERM)
        socket_line = next((x for x in self._lines() if x.startswith("AuthInfo=socket=")), None)
        if socket_line:
            shutil.rmtree(Path(socket_line.split("=")[2].split(",")[0]).parent, ignore_errors=True)
        self._record.unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """Return what Slurm's commands need to find this cluster."""
        return {"SLURM_CONF": str(self.configuration)}

    def status(self) -> str:
        """Return which processes run, and the controller's report."""
        lines = [f"{name:<12} {'up' if self._alive(name) else 'DOWN'}" for name in self._processes()]
        return "\n".join([*lines, self._ask("sinfo", "-N", "-l"), self._ask("squeue")])

    def _configure(self, names: list[str], cpus: int, gpus: int, munge: Path, *, requeue: bool) -> None:
        host = socket.gethostname().split(".")[0]
        controller, *ports = _free_ports(1 + len(names))
        devices = []
        for name in names if gpus else []:
            for number in range(gpus):
                device = self.folder / f"{name}-gpu{number}"
                device.symlink_to("/dev/null")  # slurmd looks for a character device
                devices.append(f"NodeName={name} Name=gpu Type=virtual File={device}")
        (self.folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *devices]) + "\n")
        if not requeue:
            (self.folder / "job_submit.lua").write_text(_FORBID_REQUEUE)
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            for name, port in zip(names, ports, strict=True)
        ]
        values = {
            "host": host,
            "controller_port": controller,
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "socket": munge,
            "folder": self.folder,
            "cpus": cpus,
            "gres": f"Gres=gpu:virtual:{gpus} " if gpus else "",
            "nodes": "\n".join(nodes),
            "plugins": "" if requeue else "JobSubmitPlugins=lua\n",
        }
        self.configuration.write_text(_CONFIGURATION.format(**values))

    def _launch(self, name: str, command: list[str], more: Mapping[str, str] | None = None) -> None:
        # A batch step inherits this environment: it must hold no variables of another cluster.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**clean, **self.environment(), **(more or {})},
                cwd=self.folder,
                start_new_session=True,
            )
        processes = self._processes() | {name: [process.pid, started(process.pid)]}
        self._record.write_text(json.dumps(processes))

    def _idle(self) -> list[str]:
        lines = (line.split() for line in self._ask("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T").splitlines())
        return sorted(line[0] for line in lines if line[1:] == ["idle"])

    def _ask(self, *command: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **self.environment()}, capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout

    def _wait(self, end: float, ready: object) -> None:
        assert callable(ready)
        while not ready():
            dead = [name for name in self._processes() if not self._alive(name)]
            if dead or time.monotonic() > end:
                logs = "; ".join(_last_line(self.folder / "log", name) for name in dead)
                raise MiniclusterError(
                    f"{', '.join(dead) or 'the nodes'} did not come up {logs}",
                    rule="all daemons live and all nodes are idle",
                    remedy=f"look into {self.folder / 'log'}",
                )
            time.sleep(0.1)

    def _processes(self) -> dict[str, list[object]]:
        found: dict[str, list[object]] = json.loads(self._record.read_text()) if self._record.exists() else {}
        return found

    def _lines(self) -> list[str]:
        return self.configuration.read_text().splitlines() if self.configuration.exists() else []

    def _alive(self, name: str) -> bool:
        pid, since = self._processes().get(name, (0, None))
        return since is not None and started(int(str(pid))) == since

    def _kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        pid = int(str(self._processes().get(name, (0,))[0]))
        asked = time.monotonic()
        while self._alive(name):
            _send(pid, number if time.monotonic() - asked < 5.0 else signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)

    def _job_processes(self, name: str) -> list[int]:
        """Return the node's slurmstepds and all that descends from them."""
        children: dict[int, list[int]] = {}
        found: list[int] = []
        mark = f"{_MARK}={self.folder}/{name}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    stat = (entry / "stat").read_text()
                    children.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
                    if "(slurmstepd)" in stat and mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        for process in found:  # grows while it is walked
            found += children.get(process, [])
        return found


def _find(program: str) -> str:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        raise MiniclusterError(
            f"{program} is not installed",
            rule="Slurm's own daemons make the cluster",
            remedy="apt-get install --no-install-recommends slurmctld slurmd slurm-client munge",
        )
    return path


def _free_ports(number: int) -> list[int]:
    """Return free ports below those that the kernel gives out by itself, so that none is taken before it is used."""
    found: list[int] = []
    while len(found) < number:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] * (port not in found)
    return found


def _send(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _last_line(folder: Path, name: str) -> str:
    texts = [(folder / f"{name}{end}") for end in (".log", ".out")]
    lines = [line for path in texts if path.exists() for line in path.read_text(errors="replace").splitlines()]
    return f"({name}: {lines[-1]})" if lines else ""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="minicluster", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=["start", "stop", "status", "env", "kill-node", "start-node"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("node", nargs="?")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2, help="per node")
    parser.add_argument("--gpus", type=int, default=0, help="per node; they are names without a device")
    parser.add_argument("--no-requeue", action="store_true", help="no job may be queued again")
    wanted = parser.parse_args()
    cluster = Minicluster(wanted.folder)
    try:
        if wanted.verb == "start":
            cluster.start(nodes=wanted.nodes, cpus=wanted.cpus, gpus=wanted.gpus, requeue=not wanted.no_requeue)
        elif wanted.verb == "stop":
            cluster.stop()
        elif wanted.verb == "status":
            print(cluster.status())
        elif wanted.verb == "kill-node":
            cluster.kill_node(wanted.node)
        elif wanted.verb == "start-node":
            cluster.start_node(wanted.node)
        if wanted.verb in ("start", "env"):
            print("\n".join(f"export {k}={shlex.quote(v)}" for k, v in cluster.environment().items()))
    except TrialignError as error:
        sys.exit(f"minicluster: {error}")


if __name__ == "__main__":
    main()
