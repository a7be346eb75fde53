"""The supervisor of a batch job: one process on the first node that starts and watches the ranks.

`python -m trialign.cluster.job SPEC SCRIPT` checks the nodes, starts the ranks by srun, asks them to save before
Slurm preempts them, kills them when they hang, and requeues the job if that may help. How the first rank ended decides:

| rank | job |
|---|---|
| 0 | done |
| 1, 2: an error that is reported and would come again, a refused configuration | fails |
| 75, or preempted by Slurm | queued again |
| anything else (killed, a lost peer, out of memory) | queued again, without the node of that rank |
| no progress for too long, or not done a moment before the time limit | queued again |

It is requeued no more after `max_restarts` restarts in a row without progress. If Slurm refuses, a successor takes over
(`successor.py`). It needs nothing but Python's standard library, as it may run outside the container of the ranks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import cast

from trialign.cluster import slurm
from trialign.cluster.ends import ENDS, Cause, ends_of, first_cause
from trialign.cluster.limit import TimeLimit
from trialign.cluster.record import (
    AttemptNotes,
    FirstEnd,
    JobSpec,
    attempts_of,
    lineage,
    note_attempt,
    place_of,
    reached,
)
from trialign.cluster.step import step
from trialign.cluster.successor import hand_over, queue_successor
from trialign.cluster.watchdog import Watchdog
from trialign.lock import LOCK_JOB
from trialign.manifest import code_revision

REQUEUE = 75
_TOLD = (1, 2)
_POLL = 0.5
_TAIL = 30


class Supervisor:
    """One attempt of one job.

    Args:
        spec: what to run.
        script: what `sbatch` was given.
    """

    def __init__(self, spec: JobSpec, script: Path) -> None:
        self.spec, self.script = spec, script
        self.job = os.environ["SLURM_JOB_ID"]
        if "SLURM_ARRAY_TASK_ID" in os.environ:  # an element of an array is known by both
            self.job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        self.nodes = slurm.nodes_of(os.environ["SLURM_JOB_NODELIST"])
        self.asked = False
        self.ending = False
        self.told_at: float | None = None  # when the ranks were asked to save
        self.cause: Cause | None = None
        self._began = time.time()
        self._heard: list[str] = []  # of srun
        signal.signal(signal.SIGUSR1, self._ask)
        signal.signal(signal.SIGTERM, self._end)

    def run(self) -> int:
        """Run the attempt and return the job's exit code; a job that is queued again does not return."""
        step, earlier = reached(self.stage), attempts_of(self.spec.folder, self.spec.name, self.job)
        starts = [line for line in earlier if line["event"] == "start"]
        self._place = place_of(self.spec)
        idle = sum(line.get("place", []) >= self._place for line in starts)
        self.say(f"attempt {len(starts) + 1} on {' '.join(self.nodes)}, from step {step}")
        if idle > self.spec.max_restarts:
            self.say(f"gives up: {idle - 1} restarts in a row got no further than step {step}")
            note_attempt(self.spec, "end", job=self.job, outcome="gave up", code=1)
            return 1
        if (revision := code_revision()) != self.spec.revision:
            self.say(f"warning: submitted by code revision {self.spec.revision}, runs {revision}")
        note_attempt(
            self.spec, "start", job=self.job, step=step, place=self._place, nodes=self.nodes, revision=revision
        )
        if self.spec.health_check and (unfit := self._unfit()):
            return self._requeue("unfit nodes", exclude=unfit)
        limit = TimeLimit(
            lambda: slurm.end_of(self.job), self.stage, earlier, leave=self.spec.leave_seconds, began=self._began
        )
        outcome, code = self._watch(self._start(), limit)
        if outcome == "preempted":  # Slurm ends the job, and knows whether to queue it again
            self._note_end(outcome, code)
            return code
        if outcome == "died":
            return self._requeue(outcome, code, exclude=[self.cause.node] if self.cause else [])
        if outcome in ("stopped", "stuck", "out of time"):
            return self._requeue(outcome, code)
        self._note_end(outcome, code)
        if code:
            self._quote_ranks()
        return code

    @property
    def stage(self) -> Path:
        """The folder whose progress is watched."""
        return Path(self.spec.stage)

    def say(self, words: str) -> None:
        """Write a line to the job's log."""
        print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {self.spec.name}, job {self.job}: {words}", flush=True)

    def _unfit(self) -> list[str]:
        """Return the nodes that do not pass the health check."""
        folder = self.spec.folder / "health" / f"{self.job}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        folder.mkdir(parents=True, exist_ok=True)
        number = str(len(self.nodes))
        look = ["srun", f"--nodes={number}", f"--ntasks={number}", "--ntasks-per-node=1", "--cpus-per-task=1"]
        program = [self.spec.python, "-m", "trialign.cluster.health", folder, self.spec.run, self.spec.gpus_per_node]
        try:
            subprocess.run([*look, *map(str, program)], check=False, timeout=300)
        except subprocess.TimeoutExpired:
            self.say("the health check did not end in five minutes")
        found = {node: folder / node for node in self.nodes}
        return [node for node, path in found.items() if not path.exists() or path.read_text() != "ok"]

    @property
    def _ends(self) -> Path:
        """The folder in which the ranks of this attempt record how they ended."""
        return self.spec.folder.absolute() / "ends" / f"{self.job}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"

    def _start(self) -> subprocess.Popen[bytes]:
        spec = self.spec
        self._ends.mkdir(parents=True, exist_ok=True)
        command = step(spec, self.job)
        # A lock names the first job of the lineage: a requeued job and a successor recognize it as their own.
        known_as = {LOCK_JOB: lineage(spec.folder, self.job)[0], ENDS: str(self._ends)}
        meeting = {"MASTER_ADDR": slurm.node_address(self.nodes[0])} | known_as
        self._log_before = {path: path.stat().st_size for path in self._logs()}  # by earlier attempts
        ranks = subprocess.Popen(command, env=os.environ | meeting, stderr=subprocess.PIPE)
        self._listener = threading.Thread(target=self._listen, args=(ranks,), daemon=True)
        self._listener.start()
        return ranks

    def _listen(self, ranks: subprocess.Popen[bytes]) -> None:
        """Forward the messages of srun, and keep them."""
        assert ranks.stderr is not None
        for line in ranks.stderr:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
            self._heard.append(line.decode(errors="replace").rstrip())

    def _watch(self, ranks: subprocess.Popen[bytes], limit: TimeLimit) -> tuple[str, int]:
        """Wait for the ranks; return their outcome and exit code."""
        watchdog = Watchdog(self.stage, self.spec.watchdog_seconds)
        look_every = min(60.0, self.spec.watchdog_seconds / 4)
        looked = time.monotonic()
        while True:
            try:
                code = ranks.wait(_POLL)
                break
            except subprocess.TimeoutExpired:
                pass
            if self.told_at is None and (self.asked or limit.is_near(time.time())):
                self._tell(ranks)
            if limit.is_reached(time.time()):
                return self._out_of_time(limit)
            if time.monotonic() - looked > look_every:
                looked = time.monotonic()
                if watchdog.stands_still():
                    self.say(f"{watchdog}; the ranks' stacks are in their logs")
                    ranks.send_signal(signal.SIGUSR2)  # each rank dumps its threads
                    time.sleep(5.0)
                    return "stuck", REQUEUE
        self._listener.join(_POLL)
        return self._judged(code)

    def _judged(self, code: int) -> tuple[str, int]:
        """Return the outcome and the exit code of ranks that ended: those of the first one that failed."""
        if code == 0:
            return "done", 0
        self.cause = first_cause(self._heard, ends_of(self._ends))
        first = code if self.cause is None or self.cause.code is None else self.cause.code
        self.say(f"the ranks ended with {code}" + (f"; the first was {self.cause}" if self.cause else ""))
        if self.ending:
            return "preempted", code
        if first in _TOLD:
            return "failed", first
        if (self.asked and self.told_at) or first == REQUEUE:
            return "stopped", REQUEUE
        return "died", first

    def _tell(self, ranks: subprocess.Popen[bytes]) -> None:
        """Signal the ranks to save and stop, if their verb can save."""
        self.asked, self.told_at = True, time.time()
        if not self.spec.saves:
            self.say(f"asked to save and stop; {self.spec.verb} cannot save itself and works on until it is ended")
            return
        self.say("asked to save and stop; the ranks are notified")
        ranks.send_signal(signal.SIGUSR1)  # srun forwards it to every rank

    def _out_of_time(self, limit: TimeLimit) -> tuple[str, int]:
        """Return the outcome and exit code for ranks that still run just before Slurm's time limit."""
        if self.spec.saves or limit.moved_up or place_of(self.spec) > self._place:
            self.say("not done, and the time limit is reached")
            return "out of time", REQUEUE
        self.say(
            f"{self.spec.verb} is not done at the time limit and leaves nothing to continue from: the same time would "
            "not do again; set a longer cluster.time"
        )
        return "failed", 1

    def _requeue(self, outcome: str, code: int = REQUEUE, exclude: Sequence[str] = ()) -> int:
        """Requeue the job; Slurm then ends what is left of this attempt, this process included.

        If Slurm refuses, a successor takes over, and this job's own exit code does not matter.
        """
        before = self._excluded_now()
        given, ours = self._left_out(before, exclude)
        exclude = [*given, *ours]
        self._note_end(outcome, code, ours)
        self.say(f"{outcome}: is to be queued again" + (f", without {' '.join(exclude)}" if exclude else ""))
        if code != REQUEUE:
            self._quote_ranks()
        try:
            slurm.ask("scontrol", "requeue", self.job)
        except slurm.ClusterError as cause:
            return self._succeeded(cause, exclude)
        for _ in range(20):  # Slurm takes the list once the job waits, and leaves this process some seconds
            if exclude == before or self._excluded(exclude):
                break
            time.sleep(0.5)
        return REQUEUE

    def _succeeded(self, refused: slurm.ClusterError, exclude: Sequence[str]) -> int:
        """Queue a successor, because this job may not be requeued."""
        try:
            state = slurm.states([self.job])[self.job]
            if state != "RUNNING":  # a cancelled job needs no successor
                self.say(f"is not queued again: {state}")
                return 1
            successor = queue_successor(self.spec, self.script, self.job, exclude=exclude)
            self.say(f"may not be queued again ({refused.value}); job {successor} takes over")
            left = hand_over(self.job, successor)
        except slurm.ClusterError as cause:
            self.say(f"{refused}\n{cause}\nthe same `trialign submit` continues from where it is")
            return 1
        if left:
            self.say(f"warning: {' '.join(left)} still wait for this job; `trialign submit` queues them again")
        return REQUEUE

    def _note_end(self, outcome: str, code: int, exclude: Sequence[str] = ()) -> None:
        notes: AttemptNotes = {"job": self.job, "outcome": outcome, "code": code}
        if exclude:
            notes["excluded"] = list(exclude)
        if self.cause is not None:
            notes["cause"] = cast(FirstEnd, asdict(self.cause))
        if outcome == "out of time" and self.spec.saves and self.told_at is not None:
            notes["saved_for"] = time.time() - self.told_at
        note_attempt(self.spec, "end", **notes)

    def _left_out(self, before: Sequence[str], nodes: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the nodes to exclude next: the user's, and as many failed ones as leave enough nodes for the job.

        After an attempt without a failed node, only the user's nodes are excluded: Slurm changes the list of pending
        jobs only, and a job must not wait for a node that failed later because of one that failed long ago.
        """
        ends = attempts_of(self.spec.folder, self.spec.name, self.job)
        ours = [node for line in reversed(ends) for node in line.get("excluded", [])]
        latest = dict.fromkeys([*reversed(nodes), *ours])
        given = [node for node in before if node not in latest]
        try:
            usable = set(slurm.usable_nodes(os.environ["SLURM_JOB_PARTITION"])) - set(given)
        except slurm.ClusterError:
            return given, []
        spare = max(0, len(usable) - self.spec.nodes) if nodes else 0
        return given, list(latest)[:spare]

    def _excluded_now(self) -> list[str]:
        try:
            return slurm.excluded_nodes(self.job)
        except slurm.ClusterError:
            return []

    def _excluded(self, nodes: Sequence[str]) -> bool:
        try:
            slurm.ask("scontrol", "update", f"JobId={self.job}", f"ExcNodeList={','.join(nodes)}")
        except slurm.ClusterError:
            return False
        return True

    def _quote_ranks(self) -> None:
        """Copy the error of the rank that ended first into the job's log, or the end of its log if it was killed."""
        if self.cause is not None and self.cause.words:
            self.say(f"{self.cause}\n{self.cause.words}")
            if self.cause.code in _TOLD:
                return
        log = Path(self._log(str(self.cause.rank if self.cause else 0)))
        written = log.read_bytes()[self._log_before.get(log, 0) :] if log.exists() else b""
        lines = written.decode(errors="replace").splitlines()[-_TAIL:]
        self.say("\n".join([f"the end of {log}:", *lines]))

    def _logs(self) -> list[Path]:
        """Return the logs of this job's ranks."""
        return [*Path(self._log("0")).parent.glob(f"{self.spec.name}_{self.job}_*")]

    def _log(self, rank: str) -> str:
        return str(self.spec.folder / "log" / f"{self.spec.name}_{self.job}_{rank}.log")

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.ending = True


if __name__ == "__main__":
    sys.exit(Supervisor(JobSpec.load(Path(sys.argv[1])), Path(sys.argv[2])).run())
