"""What the supervisor of a job decides, on a real Slurm, with commands that take no time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trialign.cluster import slurm
from trialign.cluster.plan import job_for
from trialign.cluster.preflight import check_partition, check_run
from trialign.cluster.record import FOLDER, jobs_of
from trialign.config.compose import as_override
from trialign.errors import ConfigError, StageError
from trialign.lock import locked

from .conftest import TINY, Slurm, ended, outcomes, queue, settings

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("command", "state", "attempts"),
    [
        ("exit 0", "COMPLETED", ["done"]),
        ("exit 2", "FAILED", ["failed"]),  # a refused configuration comes again
        ("kill -9 $$", "FAILED", ["died", "died", "gave up"]),
        ("exit 75", "FAILED", ["made room", "made room", "gave up"]),
        ("test -e again || { touch again; exit 70; }", "COMPLETED", ["died", "done"]),
    ],
)
def test_how_the_ranks_end_decides(
    cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, state: str, attempts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    job = queue(tmp_path / "run", command)
    assert ended(cluster, job) == state
    found = outcomes(tmp_path / "run", "train", job)
    assert found == attempts


def test_ranks_that_stand_still_are_ended_and_queued_again(cluster: Slurm, tmp_path: Path) -> None:
    job = queue(
        tmp_path / "run", f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; sleep 600; }}", watchdog_seconds=6.0
    )
    assert ended(cluster, job) == "COMPLETED"
    assert outcomes(tmp_path / "run", "train", job) == ["stood still", "done"]


BEATS = """
import sys, time
from pathlib import Path
from trialign.progress import Intervals, Pace, telling
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with telling("quantize", folder, Intervals(beat=0.0)), Pace("passes", 100) as pace:
    pace.add(3)
    for second in range(14):
        time.sleep(1.0)
        {each}
"""


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ("pace.add()", ["done"]),  # says nothing, writes nothing but its beat
        ("print(second, flush=True); (folder / 'log').write_text(str(second))", ["stood still"] * 2 + ["gave up"]),
    ],
)
def test_the_watchdog_goes_by_what_is_counted(cluster: Slurm, tmp_path: Path, each: str, expected: list[str]) -> None:
    program = tmp_path / "beats.py"
    program.write_text(BEATS.format(each=each))
    job = queue(tmp_path / "run", f"{sys.executable} {program} {tmp_path}/run/train", watchdog_seconds=6.0)
    ended(cluster, job)
    assert outcomes(tmp_path / "run", "train", job) == expected
    told = (tmp_path / "run" / FOLDER / "log" / f"train_{job}.log").read_text()
    assert ("the last beat: quantize, passes: 3 of 100" in told) == (expected[0] == "stood still")


def test_restarts_that_get_further_are_not_counted(cluster: Slurm, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "train" / "checkpoints"
    folder.mkdir(parents=True)
    further = f"n=$(ls {folder} | wc -l); test $n -ge 3 || {{ touch {folder}/step-0000000$((n + 1)).json; exit 75; }}"
    job = queue(tmp_path / "run", further, max_restarts=0)
    assert ended(cluster, job) == "COMPLETED"
    assert outcomes(tmp_path / "run", "train", job) == ["made room"] * 3 + ["done"]


def test_a_node_that_fails_its_check_is_left_out(cluster: Slurm, tmp_path: Path) -> None:
    (tmp_path / "run" / FOLDER / ".health-n1").mkdir(parents=True)  # where n1 is to write
    job = queue(tmp_path / "run", "exit 0", health_check=True, nodes=1)
    assert ended(cluster, job) == "COMPLETED"
    events = [json.loads(x) for x in (tmp_path / "run" / FOLDER / "train.attempts.jsonl").read_text().splitlines()]
    assert [event.get("outcome") for event in events if event["event"] == "end"] == ["unfit nodes", "done"]
    assert [event["nodes"] for event in events if event["event"] == "start"] == [["n1"], ["n2"]]


def test_text_of_any_letters_reaches_slurm_as_it_is(cluster: Slurm, tmp_path: Path) -> None:
    """A run whose name would be expanded or cut, a comment of several words, and a variable that a shell would read."""
    run = tmp_path / '50% of it\'s "runs" #1 $HOME'
    program = f"cluster.program=[sh,-c,'printf %s \"$ODD\" > {tmp_path}/odd']"
    odd = ["cluster.sbatch=['--comment=two \"words\" # 50% $HOME']", "cluster.environment.ODD='a \"b\" $c 50%'"]
    cluster.trialign("submit", "train", "cluster=minicluster", as_override("run", str(run)), program, *odd, *TINY)
    job = jobs_of(run)["train"]
    assert ended(cluster, job) == "COMPLETED"
    assert (tmp_path / "odd").read_text() == 'a "b" $c 50%'
    assert 'Comment=two "words" # 50% $HOME' in slurm.ask("scontrol", "-o", "show", "job", job)
    assert {path.name for path in (run / FOLDER / "log").iterdir()} == {f"train_{job}.log", f"train_{job}_0.log"}
    assert set(tmp_path.iterdir()) == {tmp_path / "odd", run}


def test_an_unknown_partition_names_the_known_ones(cluster: Slurm, tmp_path: Path) -> None:
    config = settings(tmp_path, "cluster.partition=hihg")
    with pytest.raises(ConfigError, match="hihg does not exist") as refused:
        check_partition(config, [job_for("train", config, [])])
    assert "did you mean 'high'? known: high, low" in refused.value.remedy


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["runtime.nodes=4", "stream.lanes=32"], "asks for 4 nodes, partition low has 3"),
        (["cluster.cpus_per_task=3"], "asks for 3 cores per node, partition low has 2"),
        (["cluster.gpus_per_node=1", "runtime.accelerator=auto"], "asks for 1 GPUs per node, partition low has 0"),
    ],
)
def test_jobs_that_fit_no_node_are_refused(cluster: Slurm, tmp_path: Path, overrides: list[str], told: str) -> None:
    config = settings(tmp_path, "runtime.strategy=ddp", *overrides)
    with pytest.raises(ConfigError, match=told):
        check_partition(config, [job_for("train", config, [])])


def test_a_run_that_a_live_job_or_process_works_in_is_refused(cluster: Slurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = queue(run, "sleep 600")
    spec = job_for("train", settings(run), [])
    with pytest.raises(StageError, match=f"train is in use by job {job}, (PENDING|RUNNING)"):
        check_run(run, [spec])
    slurm.ask("scancel", job)
    ended(cluster, job)
    check_run(run, [spec])
    (run / "train").mkdir()
    with locked(run / "train"), pytest.raises(StageError, match="train is in use by pid"):
        check_run(run, [spec])
