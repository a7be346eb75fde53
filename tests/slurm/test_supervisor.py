"""What the supervisor of a job decides, on a real Slurm, with commands that take no time."""

from __future__ import annotations

import json
import shlex
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
        ("exit 75", "FAILED", ["stopped", "stopped", "gave up"]),
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
    assert outcomes(tmp_path / "run", "train", job) == ["stuck", "done"]


BEATS = """
import sys, time
from pathlib import Path
from trialign.progress import Intervals, Progress, telling
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with telling("quantize", folder, Intervals(beat=0.0)), Progress("passes", 100) as progress:
    progress.add(3)
    for second in range(14):
        time.sleep(1.0)
        {each}
"""


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ("progress.add()", ["done"]),  # says nothing, writes nothing but its beat
        ("print(second, flush=True); (folder / 'log').write_text(str(second))", ["stuck"] * 2 + ["gave up"]),
    ],
)
def test_the_watchdog_goes_by_what_is_counted(cluster: Slurm, tmp_path: Path, each: str, expected: list[str]) -> None:
    program = tmp_path / "beats.py"
    program.write_text(BEATS.format(each=each))
    job = queue(tmp_path / "run", f"{sys.executable} {program} {tmp_path}/run/train", watchdog_seconds=6.0)
    ended(cluster, job)
    assert outcomes(tmp_path / "run", "train", job) == expected
    told = (tmp_path / "run" / FOLDER / "log" / f"train_{job}.log").read_text()
    assert ("the last beat: quantize, passes: 3 of 100" in told) == (expected[0] == "stuck")


def test_restarts_that_get_further_are_not_counted(cluster: Slurm, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "train" / "checkpoints"
    folder.mkdir(parents=True)
    further = f"n=$(ls {folder} | wc -l); test $n -ge 3 || {{ touch {folder}/step-0000000$((n + 1)).json; exit 75; }}"
    job = queue(tmp_path / "run", further, max_restarts=0)
    assert ended(cluster, job) == "COMPLETED"
    assert outcomes(tmp_path / "run", "train", job) == ["stopped"] * 3 + ["done"]


def test_a_node_that_fails_its_check_is_left_out(cluster: Slurm, tmp_path: Path) -> None:
    (tmp_path / "run" / FOLDER / ".health-n1").mkdir(parents=True)  # where n1 is to write
    job = queue(tmp_path / "run", "exit 0", health_check=True, nodes=1)
    assert ended(cluster, job) == "COMPLETED"
    assert outcomes(tmp_path / "run", "train", job) == ["unfit nodes", "done"]
    assert starts(tmp_path / "run") == [["n1"], ["n2"]]


def starts(run: Path) -> list[list[str]]:
    """Return the nodes of every attempt."""
    events = [json.loads(line) for line in (run / FOLDER / "train.attempts.jsonl").read_text().splitlines()]
    return [event["nodes"] for event in events if event["event"] == "start"]


def test_a_refusal_of_one_rank_is_quoted_and_not_queued_again(cluster: Slurm, tmp_path: Path) -> None:
    """Red: srun ends the other rank, whose 143 is the larger code."""
    words = {"rank": 1, "node": "n2", "code": 2, "words": "stream.global_batch_size=7 is refused", "at": 1.0}
    told = f"echo {shlex.quote(json.dumps(words))} > $TRIALIGN_ENDS/1.json; exit 2"
    job = queue(tmp_path / "run", f"test $SLURM_PROCID = 0 || {{ {told}; }}; sleep 600", nodes=2)
    assert ended(cluster, job) == "FAILED"
    assert outcomes(tmp_path / "run", "train", job) == ["failed"]
    log = (tmp_path / "run" / FOLDER / "log" / f"train_{job}.log").read_text()
    assert "the ranks ended with 143; the first was rank 1 on n2: Exited with exit code 2" in log
    assert "stream.global_batch_size=7 is refused" in log


def test_the_node_of_a_rank_that_died_is_left_out(cluster: Slurm, tmp_path: Path) -> None:
    once = f"test $SLURM_PROCID = 0 || mkdir {tmp_path}/again && {{ test $SLURM_PROCID = 0 || kill -9 $$; }}"
    waits = (
        f"until test -e {tmp_path}/again; do sleep 0.1; done; test $SLURM_NODEID-$SLURM_RESTART_COUNT != 0- || sleep 9"
    )
    job = queue(tmp_path / "run", f"{once}; {waits}; exit 0", nodes=2)
    assert ended(cluster, job) == "COMPLETED"
    assert outcomes(tmp_path / "run", "train", job) == ["died", "done"]
    assert starts(tmp_path / "run") == [["n1", "n2"], ["n1", "n3"]]


def test_as_many_nodes_are_left_out_as_leave_enough(cluster: Slurm, tmp_path: Path) -> None:
    """Three nodes, two wanted: only the latest that failed is left out, and the job does not wait for ever."""
    job = queue(tmp_path / "run", "test $SLURM_PROCID = 0 || kill -9 $$; sleep 600", nodes=2, max_restarts=2)
    assert ended(cluster, job) == "FAILED"
    assert outcomes(tmp_path / "run", "train", job) == ["died"] * 3 + ["gave up"]
    assert starts(tmp_path / "run") == [["n1", "n2"], ["n1", "n3"], ["n1", "n2"]]


def short(job: str) -> None:
    """Give a job one minute."""
    slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=1")


def test_a_save_longer_than_the_time_that_is_left_does_not_end_the_job(cluster: Slurm, tmp_path: Path) -> None:
    """Slurm would end it as TIMEOUT, for good, and cancel what waits for it."""
    saving = f"trap '' USR1; mkdir {tmp_path}/again && sleep 600; exit 0"
    job = queue(tmp_path / "run", saving, leave_seconds=45.0)
    short(job)
    assert ended(cluster, job) == "COMPLETED"
    assert outcomes(tmp_path / "run", "train", job) == ["out of time", "done"]


def test_a_stage_that_cannot_save_is_not_killed_by_the_word_that_time_is_up(cluster: Slurm, tmp_path: Path) -> None:
    job = queue(tmp_path / "run", f"touch {tmp_path}/runs; sleep 6", saves=False)
    cluster.wait((tmp_path / "runs").exists, "the rank")
    slurm.ask("scancel", "--signal=USR1", "--batch", job)
    assert ended(cluster, job) == "COMPLETED"
    assert outcomes(tmp_path / "run", "train", job) == ["done"]


def test_a_stage_that_leaves_nothing_is_not_given_the_same_time_again(cluster: Slurm, tmp_path: Path) -> None:
    job = queue(tmp_path / "run", "sleep 600", saves=False, leave_seconds=45.0)
    short(job)
    assert ended(cluster, job) == "FAILED"
    assert "set a longer cluster.time" in (tmp_path / "run" / FOLDER / "log" / f"train_{job}.log").read_text()


def test_parts_that_a_stage_leaves_count_as_progress(cluster: Slurm, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "train"
    folder.mkdir(parents=True)
    further = f"n=$(ls {folder} | wc -l); test $n -ge 3 || {{ touch {folder}/part-$n; exit 70; }}"
    job = queue(tmp_path / "run", further, max_restarts=0, saves=False)
    assert ended(cluster, job) == "COMPLETED"
    assert outcomes(tmp_path / "run", "train", job) == ["died"] * 3 + ["done"]


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
        (["runtime.nodes=4", "stream.global_batch_size=32"], "asks for 4 nodes, partition low has 3"),
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
