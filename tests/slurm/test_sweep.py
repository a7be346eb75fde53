"""A multirun of four as one throttled array: interrupted, taken up again, reported on."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from trialign.cluster import slurm
from trialign.cluster.record import jobs_of
from trialign.manifest import Manifest

from .conftest import STAGES_BEFORE, TINY, Slurm

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def shared(cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Everything before the training, made once."""
    run = tmp_path_factory.mktemp("runs") / "shared"
    cluster.trialign("pipeline", f"run={run}", *TINY)
    return [f"from.{verb}={run}" for verb in STAGES_BEFORE]


def test_a_sweep_is_one_array_survives_its_end_and_is_taken_up_without_repeating_members(
    cluster: Slurm, shared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Hydra leaves a multirun.yaml where it is started
    runs = [tmp_path / "sweep" / f"seed{seed}" for seed in (1, 2, 3, 4)]
    sweep = ["pipeline", "-m", "seed=1,2,3,4", "run=sweep/seed${seed}", "hydra/launcher=slurm", "cluster=minicluster"]
    sweep += ["cluster.array_limit=1", *TINY, *shared]
    assert "4 members: 0 finished, 0 queued already, 4 to do" in cluster.trialign(*sweep)
    jobs = [jobs_of(run)["pipeline"] for run in runs]
    array = jobs[0].split("_")[0]
    assert jobs == [f"{array}_{number}" for number in range(4)]
    # Another terminal, same command; on a slow machine the first member is through by then.
    known = re.search(r"(\d) finished, (\d) queued already, 0 to do", cluster.trialign(*sweep))
    assert known is not None
    assert int(known[1]) + int(known[2]) == 4

    cluster.wait(lambda: cluster.state(jobs[0]) == "COMPLETED", "the first member")
    slurm.ask("scancel", array)
    cluster.wait(lambda: all(cluster.state(job) in slurm.ENDED for job in jobs), "the end of the array")
    ended = [job for job in jobs if cluster.state(job) == "COMPLETED"]
    assert len(ended) < 4
    finished = {run: (run / "train" / "manifest.json").read_bytes() for run in runs[: len(ended)]}

    told = cluster.trialign(*sweep, "cluster.array_limit=2", "cluster.wait=true")
    assert f"4 members: {len(ended)} finished, 0 queued already, {4 - len(ended)} to do" in told
    assert all((run / "evaluate" / "test" / "manifest.json").exists() for run in runs)
    assert all((run / "train" / "manifest.json").read_bytes() == before for run, before in finished.items())

    cluster.trialign("report", f"report.runs=[{tmp_path}/sweep/*]", f"run={tmp_path}/comparison")
    with (tmp_path / "comparison" / "report" / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_members_at_once_make_what_they_share_once(
    cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a sweep over variants: nothing is there yet, both begin together, and one of them waits for the other."""
    monkeypatch.chdir(tmp_path)
    shared = [f"from.{verb}=variants/shared" for verb in STAGES_BEFORE]
    sweep = ["pipeline", "-m", "seed=1,2", "run=variants/${seed}", "hydra/launcher=slurm", "cluster=minicluster"]
    cluster.trialign(*sweep, "cluster.array_limit=2", "cluster.wait=true", *TINY, *shared)
    inputs = [Manifest.read(tmp_path / "variants" / seed / "train").inputs for seed in ("1", "2")]
    assert inputs[0]["assign"] == inputs[1]["assign"]
    logs = [path.read_text() for path in (tmp_path / "variants").glob("[12]/slurm/log/*_0.log")]
    assert len(logs) == 2
    for verb in STAGES_BEFORE:  # in the tables at the end
        assert sorted(re.search(rf"│ {verb} +│ (\w+)", log)[1] for log in logs) == ["built", "taken"], verb


def test_the_members_run_under_the_name_of_the_sweep(
    cluster: Slurm, shared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "-m", "seed=1,2", "run=widths/${seed}", "hydra/launcher=slurm", "cluster=minicluster"]
    told = cluster.trialign(*words, *TINY, *shared, "cluster.dry_run=true")
    assert "export WANDB_RUN_GROUP=widths" in told
    assert "#SBATCH --array=0-1%4" in told
    assert not (tmp_path / "widths").exists()
