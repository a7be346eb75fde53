"""How a run stands: its stages, their jobs, how often they were taken up again, how far they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trialign.cluster import slurm
from trialign.cluster.record import FOLDER, attempts_of, jobs_of, reached
from trialign.config.stages import ALL_STAGES
from trialign.lock import living_owner
from trialign.manifest import MANIFEST
from trialign.progress import read_progress


@dataclass(frozen=True)
class StageStatus:
    """One line of the table; what is not known is empty."""

    name: str
    stage: str
    job: str = ""
    state: str = ""
    restarts: str = ""
    step: str = ""
    last: str = ""


def status(run: Path) -> list[StageStatus]:
    """Return how every stage, and every job that is no stage, stands."""
    jobs = jobs_of(run)
    states = slurm.states(list(jobs.values())) if jobs else {}
    return [_line(name, run, jobs, states) for name in dict.fromkeys([*ALL_STAGES, *jobs])]


def _line(name: str, run: Path, jobs: Mapping[str, str], states: Mapping[str, str]) -> StageStatus:
    folder = run / name
    # Every split has an evaluation of its own; the latest stands one folder up.
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())] if name == "evaluate" else [folder]
    owner = next((found for place in places if place.is_dir() and (found := living_owner(place))), None)
    finished = (folder / MANIFEST).exists() and owner is None
    stage = "finished" if finished else f"written by {owner}" if owner else "begun" if folder.exists() else ""
    job = jobs.get(name, "")
    events = attempts_of(run / FOLDER, name, job)
    starts = sum(event["event"] == "start" for event in events)
    ends = [event["outcome"] for event in events if event["event"] == "end"]
    return StageStatus(
        name,
        stage,
        job,
        states.get(job, ""),
        str(max(0, starts - 1)) if job else "",
        _step(folder, finished),
        *ends[-1:],
    )


def _step(folder: Path, finished: bool) -> str:
    """Return how far a stage is: the steps of a finished training, the last beat, else the newest checkpoint."""
    if finished:
        return str(json.loads((folder / MANIFEST).read_text())["counts"].get("steps", ""))
    beat = read_progress(folder)
    return str(reached(folder) or "") if beat is None else str(beat)
