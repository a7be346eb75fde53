"""The records of a run's jobs in `DIR/slurm/`, for the supervisor in the job, for `status` and for people.

| path | content |
|---|---|
| `jobs.jsonl` | one line per job that was queued; `succeeds`: the job it takes over from |
| `NAME.json` | what the supervisor does: command, ranks, limits, code revision |
| `NAME.config.json` | the resolved configuration |
| `NAME.sbatch` | the script |
| `NAME.attempts.jsonl` | one line when an attempt starts, one when it ends |
| `ends/` | how the ranks of every attempt ended, as they recorded it |
| `log/` | the supervisor's log `NAME_JOB.log`, each rank's `NAME_JOB_RANK.log` |
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from typing_extensions import Unpack

from trialign.files import write_atomically
from trialign.lock import is_lock
from trialign.manifest import MANIFEST
from trialign.progress import read_progress

FOLDER = "slurm"


class _Links(TypedDict, total=False):
    """The jobs and the sweep that a job belongs to."""

    after: list[str]
    """The jobs that it waits for."""
    succeeds: str
    """The job that it takes over from."""
    sweep: str
    """The folder of the sweep that it is a member of."""


class QueuedJob(_Links):
    """A line of `jobs.jsonl`."""

    name: str
    job: str
    at: str


class FirstEnd(TypedDict):
    """How the rank that ended first ended; see `ends.Cause`."""

    rank: int
    node: str
    how: str
    code: int | None
    words: str


class AttemptNotes(TypedDict, total=False):
    """The fields of an attempt's lines: at the start, where it continues from; at the end, its outcome."""

    job: str
    step: int
    place: list[int]
    nodes: list[str]
    revision: str
    outcome: str
    code: int
    cause: FirstEnd
    excluded: list[str]
    saved_for: float


class AttemptEvent(AttemptNotes):
    """A line of `NAME.attempts.jsonl`."""

    event: str
    at: str


@dataclass(frozen=True)
class JobSpec:
    """One job: a verb on so many ranks, and when to give up.

    Attributes:
        name: the name of its files, which is the verb.
        verb: what runs.
        run: the run directory.
        stage: the folder that the verb writes, where the supervisor looks for progress; the run's for a pipeline.
        command: of every rank.
        workdir: where it was submitted.
        nodes, tasks_per_node, cpus_per_task: the ranks.
        gpus_per_node: asked of every node.
        srun: further options.
        python: the interpreter of supervisor and health check.
        health_check: look at the nodes first.
        watchdog_seconds: seconds without progress after which it counts as stuck.
        leave_seconds: seconds before the time limit at which it is too late to save.
        saves: the verb saves itself when it is asked to save and stop.
        max_restarts: the most restarts in a row without progress.
        revision: the code that was submitted.
    """

    name: str
    verb: str
    run: str
    stage: str
    command: list[str]
    workdir: str
    nodes: int
    tasks_per_node: int
    cpus_per_task: int
    gpus_per_node: int
    srun: list[str]
    python: str
    health_check: bool
    watchdog_seconds: float
    leave_seconds: float
    saves: bool
    max_restarts: int
    revision: str

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return Path(self.run) / FOLDER

    def save(self) -> Path:
        """Write the job to `DIR/slurm/NAME.json` and return that path."""
        path = self.folder / f"{self.name}.json"
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")
        return path

    @staticmethod
    def load(path: Path) -> JobSpec:
        """Read a job from its file."""
        return JobSpec(**json.loads(path.read_text()))


def note_job(folder: Path, name: str, job: str, **links: Unpack[_Links]) -> None:
    """Append a queued job to `jobs.jsonl`."""
    _append(folder / "jobs.jsonl", {"name": name, "job": job, "at": _now(), **links})


def lineage(folder: Path, job: str) -> list[str]:
    """Return a job and the jobs that it succeeds, the oldest first."""
    succeeds, jobs = _successions(folder), [job]
    while jobs[0] in succeeds:
        jobs.insert(0, succeeds[jobs[0]])
    return jobs


def last_of(folder: Path, job: str) -> str:
    """Return the last of the jobs that took over from a job in turn; the job itself if none did."""
    successors = {before: after for after, before in _successions(folder).items()}
    while job in successors:
        job = successors[job]
    return job


def jobs_of(run: Path) -> dict[str, str]:
    """Return the last job of every name."""
    return {name: line["job"] for name, line in last_jobs(run).items()}


def last_jobs(run: Path) -> dict[str, QueuedJob]:
    """Return the line of `jobs.jsonl` for the last job of every name."""
    return {line["name"]: line for line in _jobs(run / FOLDER)}


def note_attempt(spec: JobSpec, event: str, **notes: Unpack[AttemptNotes]) -> None:
    """Append the start or the end of an attempt to `NAME.attempts.jsonl`."""
    _append(spec.folder / f"{spec.name}.attempts.jsonl", {"event": event, "at": _now(), **notes})


def attempts_of(folder: Path, name: str, job: str) -> list[AttemptEvent]:
    """Return the events of the attempts of a job and of those it succeeds, in order."""
    jobs = lineage(folder, job)
    events: list[AttemptEvent] = [json.loads(line) for line in _lines(folder / f"{name}.attempts.jsonl")]
    return [event for event in events if event["job"] in jobs]


def reached(stage: Path) -> int:
    """Return the step that a stage would continue from: of its newest checkpoint, else 0."""
    steps = (path.stem.removeprefix("step-") for path in (stage / "checkpoints").glob("step-*.json"))
    return max(map(int, steps), default=0)


def place_of(spec: JobSpec) -> list[int]:
    """Return the progress that a stage, or a run of several, would continue from; a larger list is further.

    Finished stages, the step of the newest checkpoint; for stages that cannot save, also what the last heartbeat
    counted and the files that lie there.
    """
    stage = Path(spec.stage)
    finished = {path.parent for place in ("*", "*/*") for path in stage.glob(f"{place}/{MANIFEST}")}
    steps = [reached(folder) for folder in (stage, *stage.glob("*/"))]
    place = [len(finished), max(steps)]
    if spec.saves:
        return place
    beat = read_progress(stage)
    return [*place, *(beat.place if beat else (0, 0)), sum(1 for path in stage.rglob("*") if not is_lock(path))]


def _successions(folder: Path) -> dict[str, str]:
    """Return job -> the job that it succeeds."""
    return {line["job"]: line["succeeds"] for line in _jobs(folder) if "succeeds" in line}


def _jobs(folder: Path) -> list[QueuedJob]:
    return [json.loads(line) for line in _lines(folder / "jobs.jsonl")]


def _append(path: Path, line: QueuedJob | AttemptEvent) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _lines(path: Path) -> list[str]:
    # A node that failed may have left half a line.
    text = path.read_text().splitlines() if path.exists() else []
    return [line for line in text if line.endswith("}")]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
