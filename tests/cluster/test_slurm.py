"""What is made of the answers of Slurm's commands, and what they are asked: small scripts stand in for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trialign.cluster import slurm
from trialign.cluster.plan import job_for, jobs_for
from trialign.cluster.preflight import check_partition
from trialign.cluster.record import FOLDER, attempts_of, jobs_of, last_of, lineage, note_attempt, note_job
from trialign.cluster.submit import submit
from trialign.cluster.successor import hand_over, queue_successor
from trialign.config.compose import compose
from trialign.config.config import Config
from trialign.errors import ConfigError

Answer = Callable[[str, str], None]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of what the commands were asked, one line each; `answer` says what they print."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "asked").touch()
    return tmp_path / "asked"


@pytest.fixture
def answer(asked: Path) -> Answer:
    def write(command: str, body: str) -> None:
        script = asked.parent / "bin" / command
        script.write_text(f'#!/bin/sh\necho "{command} $*" >> "{asked}"\n{body}\n')
        script.chmod(0o755)

    return write


def settings(run: Path, *overrides: str) -> Config:
    return compose("submit", [f"run={run}", "cluster=minicluster", *overrides])


def test_a_partition_of_several_kinds_of_nodes(answer: Answer) -> None:
    answer("sinfo", "echo 'low|2|8|gpu:a100:4(S:0-1)'; echo 'low|3|16+|(null)'; echo 'high|1|4|(null)'")
    assert slurm.partitions() == {"low": slurm.Partition(5, 16, 4), "high": slurm.Partition(1, 4, 0)}


def test_a_node_that_is_down_or_silent_is_not_usable(answer: Answer) -> None:
    answer("sinfo", "printf '%s\\n' 'n1|idle' 'n2|idle*' 'n3|down' 'n4|allocated' 'n5|drained'")
    assert slurm.usable_nodes("low") == ["n1", "n4"]


def test_the_number_of_a_job_is_told_without_its_cluster(answer: Answer, asked: Path, tmp_path: Path) -> None:
    answer("sbatch", "echo '17;north'")
    assert slurm.submit(tmp_path / "one.sbatch", "--hold") == "17"
    assert asked.read_text() == f"sbatch --parsable --hold {tmp_path}/one.sbatch\n"


SIX_CORES = ("cluster.partition=low", "cluster.cpus_per_task=3", "runtime.devices=2", "runtime.strategy=ddp")


@pytest.mark.parametrize(("cores", "fits"), [(6, True), (5, False)])
def test_a_job_may_fill_its_nodes_and_no_more(answer: Answer, tmp_path: Path, cores: int, fits: bool) -> None:
    answer("sinfo", f"echo 'low|1|{cores}|(null)'")
    wanted = settings(tmp_path, *SIX_CORES, "stream.global_batch_size=16")
    if fits:
        check_partition(wanted, [job_for("train", wanted, [])])
    else:
        with pytest.raises(ConfigError, match="train asks for 6 cores per node, partition low has 5"):
            check_partition(wanted, [job_for("train", wanted, [])])


def test_a_stage_of_a_chain_waits_for_the_success_of_those_it_reads(
    answer: Answer, asked: Path, tmp_path: Path
) -> None:
    answer("sinfo", "echo 'low|3|8|(null)'")
    answer("squeue", ":")
    answer("sbatch", f'wc -l < "{asked}"')  # a number of its own for every job
    wanted = settings(tmp_path / "run", "from.prepare=/other", "from.baselines=/other", "from.enrich=/other")
    queued = submit(jobs_for("pipeline", wanted, []), wanted, lambda _: None)
    assert list(queued) == ["embed", "quantize", "assign", "train", "evaluate"]
    submitted = [line.split() for line in asked.read_text().splitlines() if "--parsable" in line]
    after = {Path(words[-1]).stem: words[2:-1] for words in submitted}
    assert after == {
        "embed": [],
        "quantize": [f"--dependency=afterok:{queued['embed']}"],
        "assign": [f"--dependency=afterok:{queued['embed']}:{queued['quantize']}"],
        "train": [f"--dependency=afterok:{queued['assign']}"],
        "evaluate": [f"--dependency=afterok:{queued['assign']}:{queued['train']}"],
    }
    assert jobs_of(tmp_path / "run") == queued


@pytest.mark.parametrize(
    ("job", "successor", "options"),
    [
        ("7", "20", "--dependency=afterany:7 --exclude=n1,n2"),
        ("7_3", "20_3", "--dependency=afterany:7_3 --array=3 --exclude=n1,n2"),
    ],
)
def test_a_successor_begins_however_the_job_before_it_ends(
    answer: Answer, asked: Path, tmp_path: Path, job: str, successor: str, options: str
) -> None:
    answer("sbatch", "echo 20")
    spec = job_for("train", settings(tmp_path), [])
    (tmp_path / FOLDER).mkdir()
    note_job(spec.folder, "train", job, sweep="/sweep")
    assert queue_successor(spec, tmp_path / "train.sbatch", job, exclude=["n1", "n2"]) == successor
    assert asked.read_text() == f"sbatch --parsable {options} {tmp_path}/train.sbatch\n"
    assert lineage(spec.folder, successor) == [job, successor]
    assert last_of(spec.folder, job) == successor


def test_who_waits_for_a_job_is_told_by_its_whole_number(answer: Answer, asked: Path) -> None:
    waiting = ("30|afterok:12(unfulfilled),afterok:7(unfulfilled)", "31|afterok:123(unfulfilled)", "32|(null)")
    answer("squeue", f"printf '%s\\n' {' '.join(map(repr, (*waiting, '33|afterok:12_1(unfulfilled)')))}")
    answer("scontrol", ":")
    assert hand_over("12", "20") == []
    changed = [line for line in asked.read_text().splitlines() if line.startswith("scontrol")]
    assert changed == ["scontrol update JobId=30 Dependency=afterok:20,afterok:7"]


def test_half_a_line_of_a_node_that_failed_is_no_line(tmp_path: Path) -> None:
    spec = job_for("train", settings(tmp_path), [])
    (tmp_path / FOLDER).mkdir()
    note_job(spec.folder, "train", "7")
    note_attempt(spec, "start", job="7")
    for name in ("jobs.jsonl", "train.attempts.jsonl"):
        with (spec.folder / name).open("a") as file:
            file.write('{"name": "train", "job": "8", "ev')
    assert jobs_of(tmp_path) == {"train": "7"}
    assert [line["event"] for line in attempts_of(spec.folder, "train", "7")] == ["start"]
