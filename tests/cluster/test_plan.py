"""What `submit` and a sweep make of a config, and what they refuse before anything is queued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trialign.cluster.plan import job_for, jobs_for
from trialign.cluster.preflight import check_settings
from trialign.cluster.record import JobSpec
from trialign.cluster.render import render
from trialign.cluster.slurm import _gpus
from trialign.cluster.sweep import members_of
from trialign.config.compose import Config, compose
from trialign.config.stages import STAGES
from trialign.errors import ConfigError


def config(*overrides: str, run: str = "/runs/one") -> Config:
    return compose("submit", [f"run={run}", "cluster=minicluster", *overrides])


def test_a_pipeline_is_one_job_per_stage_and_leaves_out_what_is_taken() -> None:
    jobs = jobs_for("pipeline", config("from.prepare=/runs/other", "runtime.devices=2", "stream.lanes=16"), ["seed=1"])
    assert [job.verb for job in jobs] == [verb for verb in STAGES if verb != "prepare"]
    assert {job.verb: job.tasks_per_node for job in jobs} == {job.verb: 1 + (job.verb == "train") for job in jobs}
    assert all(job.command[-2:] == [job.verb, "seed=1"] for job in jobs)


def test_only_stages_and_the_pipeline_are_submitted() -> None:
    for verb in ("report", "trian", None):
        with pytest.raises(ConfigError, match="trialign submit"):
            jobs_for(verb, config(), [])


def test_gpus_are_asked_for_where_a_node_has_them() -> None:
    asked = ("cluster=gpu", "runtime.nodes=2", "runtime.devices=4", "runtime.strategy=ddp", "stream.lanes=64")
    assert job_for("train", config(*asked), []).gpus_per_node == 4
    assert job_for("embed", config(*asked), []).gpus_per_node == 1
    assert job_for("prepare", config(*asked), []).gpus_per_node == 0
    assert job_for("train", config(*asked, "runtime.accelerator=cpu"), []).gpus_per_node == 0


@pytest.mark.parametrize(
    ("overrides", "told", "remedy"),
    [
        (["cluster=none"], "no cluster is named", "cluster=NAME"),
        (["runtime.nodes=2", "stream.lanes=16"], "single with 2 ranks", "runtime.strategy=ddp"),
        (
            ["cluster=gpu", "runtime.devices=16", "runtime.strategy=ddp", "stream.lanes=128"],
            "runtime.devices=16 with cluster.gpus_per_node=8",
            "runtime.devices=8 runtime.nodes=2",
        ),
    ],
)
def test_what_the_config_alone_shows_is_refused(overrides: list[str], told: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        check_settings(config(*overrides))
    assert remedy in refused.value.remedy


def test_lanes_that_the_ranks_do_not_divide_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="6 ranks") as refused:
        config("runtime.nodes=3", "runtime.devices=2", "runtime.micro_rows=2", "stream.lanes=32")
    assert "stream.lanes=36" in refused.value.remedy


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([["run=/r/same"], ["run=/r/same"]], "several members of the sweep have the run directory /r/same"),
        (
            [["run=/r/1"], ["run=/r/2", "runtime.devices=2", "runtime.strategy=ddp", "stream.lanes=16"]],
            "ask for different nodes",
        ),
    ],
)
def test_members_that_make_no_array_are_refused(changes: list[list[str]], told: str) -> None:
    configs = [config(*words) for words in changes]
    with pytest.raises(ConfigError, match=told):
        members_of("train", configs, changes)


def test_a_pipeline_in_one_job_has_one_rank() -> None:
    two = config("runtime.devices=2", "runtime.strategy=ddp", "stream.lanes=16")
    with pytest.raises(ConfigError, match="1 x 2 ranks"):
        members_of("pipeline", [two], [[]])


def test_the_script_carries_the_site_and_survives_odd_words(tmp_path: Path) -> None:
    site = config(
        "cluster.account=physics",
        "cluster.sbatch=['--constraint=a100']",
        "cluster.setup=[module load cuda]",
        "+cluster.environment.GREETING='a $b (c)'",
    )
    job = job_for("train", site, ["run=/runs/one"])
    script = render(job, site.cluster, specs="spec.json", environment={}, log=tmp_path)
    for line in ("#SBATCH --account=physics", "#SBATCH --constraint=a100", "module load cuda", "#SBATCH --requeue"):
        assert line in script.splitlines()
    assert "export GREETING='a $b (c)'" in script
    assert "@" not in script.replace("B:USR1@", "")


def test_a_job_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    job = job_for("train", config(run=str(tmp_path)), ["run=a b", "x='[1,2]'"])
    job.folder.mkdir()
    assert JobSpec.load(job.save()) == job
    assert json.loads((tmp_path / "slurm" / "train.json").read_text())["command"][-2:] == ["run=a b", "x='[1,2]'"]


@pytest.mark.parametrize(
    ("gres", "number"),
    [("(null)", 0), ("gpu:8", 8), ("gpu:a100:4(S:0-1)", 4), ("gpu:virtual:2,shard:8", 2), ("craynetwork:4", 0)],
)
def test_gpus_are_read_from_what_sinfo_says(gres: str, number: int) -> None:
    assert _gpus(gres) == number
