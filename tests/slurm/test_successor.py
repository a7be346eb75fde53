"""Where no job may be queued again: one takes over from another, on a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trialign.cluster import slurm
from trialign.cluster.record import FOLDER, jobs_of

from .conftest import Slurm, ended, outcomes, queue, started

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def forbidding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with started(tmp_path_factory.mktemp("slurm"), requeue=False) as cluster:
        yield cluster


def waits_for(tmp_path: Path, *jobs: str) -> str:
    """Queue a job after others, as a chain does."""
    script = tmp_path / "after.sbatch"
    script.write_text("#!/bin/sh\n#SBATCH --output=/dev/null --kill-on-invalid-dep=yes\ntrue\n")
    return slurm.submit(script, f"--dependency=afterok:{':'.join(jobs)}")


def last(cluster: Slurm, run: Path) -> str:
    """Return the job that nobody takes over from, once it has ended."""
    cluster.wait(lambda: cluster.state(jobs_of(run)["train"]) in slurm.ENDED and all_ended(cluster, run), "the end")
    return jobs_of(run)["train"]


def all_ended(cluster: Slurm, run: Path) -> bool:
    return outcomes(run, "train", jobs_of(run)["train"])[-1] in ("done", "gave up", "failed")


def test_a_successor_takes_over_and_those_that_wait_wait_for_it(forbidding: Slurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = queue(run, f"mkdir {tmp_path}/again || exit 0; sleep 3; exit 75")
    other = queue(tmp_path / "other", "exit 0")
    waiting = waits_for(tmp_path, job, other)
    successor = last(forbidding, run)
    assert successor != job
    assert ended(forbidding, successor) == "COMPLETED"
    assert outcomes(run, "train", successor) == ["stopped", "done"]
    assert ended(forbidding, waiting) == "COMPLETED"
    told = (run / FOLDER / "log" / f"train_{job}.log").read_text()
    assert f"job {successor} takes over" in told
    assert "Traceback" not in told


def test_the_attempts_of_all_count_together(forbidding: Slurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    waiting = waits_for(tmp_path, queue(run, "sleep 2; exit 75"))
    assert ended(forbidding, last(forbidding, run)) == "FAILED"
    assert outcomes(run, "train", jobs_of(run)["train"]) == ["stopped", "stopped", "gave up"]
    assert len((run / FOLDER / "jobs.jsonl").read_text().splitlines()) == 3
    assert ended(forbidding, waiting) == "CANCELLED"


def test_a_successor_leaves_out_the_node_that_failed_its_check(forbidding: Slurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / FOLDER / ".health-n1").mkdir(parents=True)  # where n1 is to write
    queue(run, "exit 0", health_check=True, nodes=1)
    assert outcomes(run, "train", last(forbidding, run)) == ["unfit nodes", "done"]


def test_who_ends_a_job_gets_no_other(forbidding: Slurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = queue(run, f"touch {tmp_path}/runs; sleep 600")
    forbidding.wait((tmp_path / "runs").exists, "the ranks")
    slurm.ask("scancel", job)
    assert ended(forbidding, job) == "CANCELLED"
    forbidding.wait(lambda: not slurm.ask("squeue", "-h", "-t", "R,CG", "-o", "%i"), "an empty cluster")
    assert jobs_of(run) == {"train": job}


def test_a_member_of_a_sweep_is_succeeded_by_itself_alone(
    forbidding: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    once = f"mkdir {tmp_path}/$SLURM_ARRAY_TASK_ID && test $SLURM_ARRAY_TASK_ID = 1 && exit 75; exit 0"
    sweep = ["train", "-m", "seed=1,2", "run=sweep/${seed}", "hydra/launcher=slurm", "cluster=minicluster"]
    told = forbidding.trialign(*sweep, f"cluster.program=[sh,-c,'{once}']", "cluster.wait=true")
    first, second = (jobs_of(tmp_path / "sweep" / seed)["train"] for seed in ("1", "2"))
    assert outcomes(tmp_path / "sweep" / "1", "train", first) == ["done"]
    assert outcomes(tmp_path / "sweep" / "2", "train", second) == ["stopped", "done"]
    assert first.endswith("_0")
    assert second.endswith("_1")
    assert first.split("_")[0] != second.split("_")[0]
    assert f"job {second} COMPLETED" in told
