"""What `status` says of attempts, sweeps and logs, from records alone; tests/slurm asks a real cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trialign.cluster import slurm
from trialign.cluster.plan import job_for
from trialign.cluster.record import FOLDER, JobSpec, note_attempt, note_job
from trialign.cluster.status import StageStatus, status
from trialign.config.compose import compose
from trialign.lock import LOCK_JOB, locked


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, slurm.Queued]:
    """What Slurm says of jobs; a test fills it."""
    found: dict[str, slurm.Queued] = {}
    monkeypatch.setattr(slurm, "queued", lambda jobs: {job: found[job] for job in jobs})
    return found


def spec_of(run: Path, verb: str = "train") -> JobSpec:
    (run / FOLDER / "log").mkdir(parents=True, exist_ok=True)
    return job_for(verb, compose("submit", [f"run={run}", "cluster=minicluster"]), [])


def line_of(run: Path, name: str = "train") -> StageStatus:
    return next(line for line in status(run) if line.name == name)


def start(spec: JobSpec, job: str) -> None:
    note_attempt(spec, "start", job=job, step=0, nodes=["n1"], revision="")


def end(spec: JobSpec, job: str, outcome: str, code: int) -> None:
    note_attempt(spec, "end", job=job, outcome=outcome, code=code)


def test_the_last_attempt_is_the_one_that_began_last(tmp_path: Path, queue: dict[str, Any]) -> None:
    """Red: the end of an attempt told as the last while the next one runs, or was lost with its node."""
    spec = spec_of(tmp_path)
    note_job(spec.folder, "train", "7")
    queue["7"] = slurm.Queued("PENDING", "", "60:00", "Dependency")
    assert (line_of(tmp_path).state, line_of(tmp_path).last) == ("PENDING (Dependency)", "")
    start(spec, "7")
    end(spec, "7", "died", 137)
    assert line_of(tmp_path).last == "1: died, code 137"
    start(spec, "7")
    queue["7"] = slurm.Queued("RUNNING", "n[1-2]", "59:00", "None")
    found = line_of(tmp_path)
    assert (found.last, found.nodes, found.limit, found.state) == (
        "2: runs (1: died, code 137)",
        "n[1-2]",
        "59:00",
        "RUNNING",
    )
    queue["7"] = slurm.Queued("TIMEOUT", "", "", "")
    assert line_of(tmp_path).last == "2: lost (TIMEOUT)"


def test_the_first_cause_is_told_with_its_rank_and_node(tmp_path: Path, queue: dict[str, Any]) -> None:
    """In the rank's own words where it left some, one line of them, else in Slurm's."""
    spec = spec_of(tmp_path)
    note_job(spec.folder, "train", "7")
    queue["7"] = slurm.Queued("FAILED", "", "", "")
    cause = {"rank": 1, "node": "n2", "how": "Exited with exit code 2", "code": 2, "words": "seed=x\n  rule: a number"}
    start(spec, "7")
    note_attempt(spec, "end", job="7", outcome="failed", code=2, cause=cause)
    assert line_of(tmp_path).last == "1: failed, code 2, rank 1 on n2: seed=x"
    start(spec, "7")
    note_attempt(spec, "end", job="7", outcome="died", code=137, cause=cause | {"words": "", "how": "Killed"})
    assert line_of(tmp_path).last == "2: died, code 137, rank 1 on n2: Killed"


def test_a_successor_stands_for_the_job_that_it_succeeds(tmp_path: Path, queue: dict[str, Any]) -> None:
    spec = spec_of(tmp_path)
    note_job(spec.folder, "train", "7")
    start(spec, "7")
    end(spec, "7", "stopped", 75)
    note_job(spec.folder, "train", "9", succeeds="7")
    start(spec, "9")
    queue["9"] = slurm.Queued("RUNNING", "n1", "1:00", "None")
    assert (line_of(tmp_path).job, line_of(tmp_path).last) == ("9", "2: runs (1: stopped, code 75)")


def test_the_logs_are_those_of_the_last_job(tmp_path: Path, queue: dict[str, Any]) -> None:
    run, sweep = tmp_path / "1", tmp_path / FOLDER / "train-001"
    log = spec_of(run).folder / "log"
    sweep.mkdir(parents=True)
    for path in (log / "train_7.log", log / "train_7_0.log", log / "train_8_1_0.log", sweep / "train_8_1.log"):
        path.touch()
    note_job(run / FOLDER, "train", "7")
    queue |= {job: slurm.Queued("FAILED", "", "", "") for job in ("7", "8_1")}
    assert line_of(run).logs == (log / "train_7.log", log / "train_7_0.log")
    note_job(run / FOLDER, "train", "8_1", sweep=str(sweep))
    assert line_of(run).logs == (sweep / "train_8_1.log", log / "train_8_1_0.log")


def test_a_sweep_shows_its_members(tmp_path: Path, queue: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        run = tmp_path / f"seed{number}"
        spec = spec_of(run, "pipeline")
        folder = tmp_path / FOLDER / "pipeline-001"
        folder.mkdir(parents=True, exist_ok=True)
        spec.save().replace(folder / f"member-{number}.json")
        note_job(spec.folder, "pipeline", f"5_{number}", sweep=str(folder))
        queue[f"5_{number}"] = slurm.Queued("RUNNING", "n1", "1:00", "None")
    (tmp_path / "seed1" / "prepare").mkdir()
    (tmp_path / "seed1" / "prepare" / "manifest.json").write_text("{}")
    (tmp_path / "seed1" / "embed").mkdir()
    monkeypatch.setenv(LOCK_JOB, "5_1")
    with locked(tmp_path / "seed1" / "embed"):
        assert [(line.name, line.job, line.stage) for line in status(tmp_path)] == [
            ("seed0", "5_0", ""),
            ("seed1", "5_1", "1 finished, embed"),
        ]


def test_a_stage_of_another_run_is_named_and_what_is_not_needed_left_out(tmp_path: Path, queue: dict[str, Any]) -> None:
    """Red: empty lines for all of them."""
    run, other = tmp_path / "run", tmp_path / "other"
    for verb, inputs, upstream in (("prepare", [], []), ("train", ["prepare", "assign"], ["quantize", "embed"])):
        (run / verb).mkdir(parents=True)
        paths = {name: {"path": str((run if name == "prepare" else other) / name), "hash": ""} for name in inputs}
        record = {"inputs": paths, "lineage": dict.fromkeys([*inputs, *upstream], ""), "counts": {}}
        (run / verb / "manifest.json").write_text(json.dumps(record))
    assert {line.name: line.stage for line in status(run)} == {
        **{"prepare": "finished", "baselines": "", "enrich": "", "assign": f"from {other}", "train": "finished"},
        "evaluate": "",
    }
    (run / "rl").mkdir()
    assert line_of(run, "rl").stage == "begun"


def test_a_stage_of_the_job_is_under_way_and_another_process_is_named(
    tmp_path: Path, queue: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path)
    note_job(spec.folder, "train", "7")
    queue["7"] = slurm.Queued("RUNNING", "n1", "1:00", "None")
    (tmp_path / "train").mkdir()
    assert line_of(tmp_path).stage == "begun"
    monkeypatch.setenv(LOCK_JOB, "7")
    with locked(tmp_path / "train"):
        assert line_of(tmp_path).stage == "under way"
    monkeypatch.delenv(LOCK_JOB)
    with locked(tmp_path / "train"):
        assert line_of(tmp_path).stage.startswith("written by pid ")
