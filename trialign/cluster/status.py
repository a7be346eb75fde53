"""The status of a run or a sweep: its stages, their jobs, logs and progress, and the outcome of the last attempt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trialign.cluster import slurm
from trialign.cluster.record import FOLDER, AttemptEvent, JobSpec, QueuedJob, attempts_of, last_jobs, lineage, reached
from trialign.config.verbs import STAGES
from trialign.lock import Owner, living_owner
from trialign.manifest import MANIFEST
from trialign.progress import read_progress


@dataclass(frozen=True)
class StageStatus:
    """One line of the table; what is not known is empty.

    Attributes:
        name: the verb; in a sweep the member's run.
        stage: finished, begun, who writes it, or the run that it was taken from.
        job: the last one; a successor, where one took over.
        state: Slurm's word, with the reason while it waits.
        nodes: where it runs.
        limit: until its time limit, as Slurm writes it.
        progress: what is counted now, with rate and time left; steps of a finished training.
        last: number of the last attempt, of this job and those it succeeds, and how it ended, or that it runs and how
            the one before ended.
        logs: of the supervisor and of the first rank, those that are there.
    """

    name: str
    stage: str = ""
    job: str = ""
    state: str = ""
    nodes: str = ""
    limit: str = ""
    progress: str = ""
    last: str = ""
    logs: tuple[Path, ...] = ()


def status(run: Path) -> list[StageStatus]:
    """Return the status of a run's stages and of its other jobs; for a sweep's folder, of every member."""
    members = _members(run)
    found = {(place, name): (place, name) for place, name in members}
    if not members or any((run / verb).exists() for verb in STAGES):
        found |= {(run, name): (run, name) for name in _names(run)}
    jobs = {(place, name): last_jobs(place).get(name) for place, name in found}
    queued = slurm.queued([job["job"] for job in jobs.values() if job])
    return [
        _line(name if place == run else str(place.relative_to(run)), name, place, jobs[place, name], queued)
        for place, name in found
    ]


def _members(run: Path) -> list[tuple[Path, str]]:
    """Return (run, verb) of every member of the sweeps that were queued from a folder."""
    specs = [JobSpec.load(path) for path in sorted((run / FOLDER).glob("*/member-*.json"))]
    return sorted({(Path(spec.run), spec.name) for spec in specs})


def _names(run: Path) -> list[str]:
    """Return the stages and other jobs of a run, without stages that it neither has nor needs.

    It needs no optional stage that nobody began, and none that came with a stage of another run.
    """
    queued, taken = last_jobs(run), _taken(run)
    needed = [verb for verb in STAGES if (taken[verb] if verb in taken else not STAGES[verb].optional)]
    here = [verb for verb in STAGES if verb in needed or verb in queued or (run / verb).exists()]
    return list(dict.fromkeys([*here, *queued]))


def _taken(run: Path) -> dict[str, str]:
    """Return the stages that the finished stages of a run were made from and that it does not hold itself.

    Each with the run that it was taken from, or "" where it came with a stage of another run.
    """
    made = [path for verb in STAGES if (path := run / verb / MANIFEST).exists()]
    found: dict[str, str] = {}
    for manifest in [json.loads(path.read_text()) for path in made]:
        direct = {verb: str(Path(read["path"]).parent) for verb, read in manifest.get("inputs", {}).items()}
        found |= {verb: direct.get(verb) or found.get(verb, "") for verb in manifest.get("lineage", {})}
    return {verb: where for verb, where in found.items() if not (run / verb).exists()}


def _line(
    shown: str, name: str, run: Path, record: QueuedJob | None, queued: Mapping[str, slurm.Queued]
) -> StageStatus:
    job = record["job"] if record else ""
    now = queued.get(job, slurm.Queued("", "", "", ""))
    events = attempts_of(run / FOLDER, name, job)
    stage, progress = _whole_pipeline(run) if name == "pipeline" else _one_stage(run / name, lineage(run / FOLDER, job))
    if not stage and (taken := _taken(run).get(name)):
        stage = f"from {taken}"
    waits = now.state == "PENDING" and now.reason not in ("", "None")
    return StageStatus(
        name=shown,
        stage=stage,
        job=job,
        state=f"{now.state} ({now.reason})" if waits else now.state,
        nodes=now.nodes,
        limit=now.left if now.state == "RUNNING" else "",
        progress=progress,
        last=_last_attempt(events, now.state),
        logs=_logs(run, name, record),
    )


def _one_stage(folder: Path, jobs: Sequence[str] = ()) -> tuple[str, str]:
    """Return the state and the progress of a stage; `jobs` are the jobs that should write it."""
    places = _places(folder)
    owner, where = next(((found, place) for place in places if (found := _owner(place))), (None, folder))
    if owner is None and (folder / MANIFEST).exists():
        return "finished", str(json.loads((folder / MANIFEST).read_text())["counts"].get("steps", ""))
    beat = read_progress(where)
    progress = str(reached(folder) or "") if beat is None else str(beat)
    if owner is not None:
        return "under way" if owner.job in jobs else f"written by {owner}", progress
    return "begun" if folder.exists() else "", progress


def _whole_pipeline(run: Path) -> tuple[str, str]:
    """Return how many stages of a pipeline in one job are finished, and the progress of the current one."""
    made = [verb for verb in STAGES if (run / verb / MANIFEST).exists()]
    now = next((verb for verb in STAGES if any(map(_owner, _places(run / verb)))), None)
    told = f"{len(made)} finished" if made else ""
    return (told, "") if now is None else (", ".join(filter(None, [told, now])), _one_stage(run / now)[1])


def _places(folder: Path) -> Sequence[Path]:
    """Return the folders that a stage writes: every split has an evaluation of its own; the latest is one up."""
    splits = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.name == "evaluate" else []
    return [folder, *splits]


def _owner(folder: Path) -> Owner | None:
    return living_owner(folder) if folder.is_dir() else None


def _last_attempt(events: Sequence[AttemptEvent], state: str) -> str:
    """Return the outcome of the last attempt; while it runs, that of the one before.

    An attempt without a recorded end is lost, whatever was before.
    """
    if not events:
        return ""
    last, number = events[-1], sum(event["event"] == "start" for event in events)
    if last["event"] == "end":
        return f"{number}: {_end(last)}"
    if state in ("RUNNING", "COMPLETING"):
        before = events[-2] if len(events) > 1 else last
        return f"{number}: runs" + (f" ({number - 1}: {_end(before)})" if before["event"] == "end" else "")
    return f"{number}: lost" + (f" ({state})" if state else "")


def _end(event: AttemptEvent) -> str:
    """Return the outcome of an attempt and its cause: the rank that ended first, with its own error if recorded."""
    told = event["outcome"] + (f", code {event['code']}" if event["code"] else "")
    if (cause := event.get("cause")) is None:
        return str(told)
    words = (cause["words"] or cause["how"]).partition("\n")[0]
    return f"{told}, rank {cause['rank']} on {cause['node']}: {words}"


def _logs(run: Path, name: str, record: QueuedJob | None) -> tuple[Path, ...]:
    if record is None:
        return ()
    log = run / FOLDER / "log"
    ranks = log / f"{name}_{record['job']}_0.log"
    supervisor = Path(record.get("sweep", log)) / f"{name}_{record['job']}.log"
    return tuple(path for path in (supervisor, ranks) if path.exists())
