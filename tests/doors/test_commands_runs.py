"""What a newcomer does wrong with finished runs, stages and clusters. Next to each lies a finished run, `r`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.doors.door import Door, Run, settings, walk
from trialign.lock import locked

OF_R = "from.prepare=r from.assign=r"
DONE = "train: was finished, nothing to do"
USER = "user-0000003"


def cut(path: Path) -> None:
    """Leave the beginning of a file, as a copy does that was broken off."""
    path.write_bytes(path.read_bytes()[:1000])


def of(verb: str) -> Callable[[str, str], str]:
    """Follow by the command that the remedy names, for that run."""

    def follow(command: str, remedy: str) -> str:
        assert f"run `trialign {verb}` for that run first" in remedy
        return f"{verb} run=r"

    return follow


DOORS = [
    Door(
        "recommend with nothing",
        "recommend",
        code=2,
        value="trialign recommend without a run",
        rule="it takes a finished run, and a user",
        remedy="trialign recommend run=DIR recommend.user=KEY",
        follow=lambda command, remedy: remedy.split(",")[0].split(" ", 1)[1].replace("DIR", "r").replace("KEY", USER),
        outcome=f"recommended to {USER}",
    ),
    Door(
        "recommend as a program",
        f"recommend --json run=r recommend.user={USER}",
        code=2,
        value="recommend --json",
        rule="settings read key=value",
        remedy="trialign recommend recommend.format=json",
        follow=lambda command, remedy: command.replace("--json", remedy.split()[2]),
        outcome=f'{{"user": "{USER}"',
    ),
    Door(
        "two users",
        f"recommend run=r recommend.user=[{USER},b]",
        code=2,
        value=f"recommend.user=[{USER},b] is a list",
        rule="one user at a time",
        remedy="set recommend.user=KEY",
        follow=lambda command, remedy: command.replace(f"[{USER},b]", USER),
        outcome=f"recommended to {USER}",
    ),
    Door(
        "a user whom the logs do not know",
        "recommend run=r recommend.user=user-9999999",
        value="no user 'user-9999999' in the logs",
        rule="users are named as in the interaction log",
        remedy="e.g. user-",
        follow=lambda command, remedy: command.replace("user-9999999", re.findall(r"e\.g\. ([\w-]+)", remedy)[0]),
        outcome="recommended to user-",
    ),
    Door(
        "an item that looks like a number",
        "recommend run=r 'recommend.items=[1_000]'",
        value="no item '1_000' among 64",
        rule="items are named by their keys in the catalogue",
        remedy="see the column `key` of ",
        follow=lambda command, remedy: command.replace(
            "1_000", pq.read_table(remedy.split(" of ")[1].strip())["key"][0].as_py()
        ),
        outcome="recommended to the named items",
    ),
    Door(
        "an item that is no list",
        "recommend run=r recommend.items=item-0000003",
        code=2,
        value="recommend.items=item-0000003 is no list",
        rule="items are a list",
        remedy="set 'recommend.items=[item-0000003]'",
        follow=lambda command, remedy: command.replace("recommend.items=item-0000003", remedy.removeprefix("set ")),
        outcome="recommended to the named items",
    ),
    Door(
        "more items than beams",
        f"recommend run=r recommend.user={USER} recommend.k=60",
        code=2,
        value="recommend.k=60 with recommend.num_beams=50",
        rule="at most as many items as it has beams",
        remedy="set recommend.num_beams=60",
        follow=settings(),
        outcome=f"recommended to {USER}",
    ),
    Door(
        "a run that is a file",
        "prepare run=notes.txt data.num_items=64 data.num_users=40",
        {"notes.txt": "to do"},
        value="notes.txt/prepare cannot be made",
        rule="a run directory is a writable folder",
        remedy="choose another run=DIR",
        follow=lambda command, remedy: command.replace("notes.txt", "n"),
        outcome="prepare: built",
    ),
    Door(
        "a folder that nobody may write",
        "prepare run=/sys/trialign data.num_items=64 data.num_users=40",
        value="/sys/trialign/prepare cannot be made",
        rule="a run directory is a writable folder",
        remedy="choose another run=DIR, or fix its permissions",
        follow=lambda command, remedy: command.replace("/sys/trialign", "n"),
        outcome="prepare: built",
    ),
    Door(
        "a run whose settings are not typed again",
        "train run=r",
        code=0,
        value="train.backbone.hidden_size=32",
        outcome=DONE,
    ),
    Door(
        "a setting changed over a finished stage",
        "quantize run=r quantize.codebook_size=16",
        value="r/quantize was finished with other settings: quantize.codebook_size 8 -> 16",
        rule="a finished stage is never changed silently",
        remedy="or add rebuild=true",
        follow=settings("add (rebuild=true)"),
        outcome="quantize: built",
    ),
    Door(
        "today's catalogue with yesterday's generator",
        "evaluate run=r from.prepare=today from.train=r",
        before=("prepare run=today data.seed=1 data.num_items=64 data.num_users=40",),
        value="evaluate would mix two different 'prepare' stages",
        rule="all inputs of a stage descend from the same catalogue and semantic IDs",
        remedy="point from.prepare and from.assign at stages of one lineage",
        follow=lambda command, remedy: command.replace("from.prepare=today", "from.prepare=r from.assign=r"),
        outcome="the same as a page",
    ),
    Door(
        "a generator as a backbone",
        f"train run=n {OF_R} train/backbone=pretrained train.backbone.model=r/train",
        code=2,
        value="train.backbone.model=r/train",
        rule="a folder with config.json, weights and tokenizer, or a name on the hub",
        remedy="r/train is the stage 'train' of a run of trialign, taken by from.train=r",
        follow=lambda command, remedy: f"evaluate run=r {re.findall(r'from.train=[^;]+', remedy)[0]}",
        outcome="the same as a page",
    ),
    Door(
        "a ranking that was deleted",
        "evaluate run=r",
        {"r/evaluate/test/topk.parquet": Path.unlink},
        value="topk.parquet",
        rule="a finished stage holds every file",
        remedy="restore them, or add rebuild=true",
        follow=settings("add (rebuild=true)"),
        outcome="the same as a page",
    ),
    Door(
        "weights that were copied in part",
        f"recommend run=r recommend.user={USER}",
        {"r/train/generator.safetensors": cut},
        value="r/train lacks 1 of the files it was finished with: generator.safetensors (1,000 of ",
        rule="a finished stage holds every file",
        remedy="restore them, or run `trialign train run=",
        follow=lambda command, remedy: re.findall("`trialign (.*)`", remedy)[0],
        outcome="train: built",
    ),
    Door(
        "a stage killed half-way",
        "train run=r",
        {"r/assign/manifest.json": Path.unlink},
        value="r/assign is not a finished stage",
        rule="a finished stage holds manifest.json, written last",
        remedy="run `trialign assign` for that run first",
        follow=of("assign"),
        outcome="assign: built",
    ),
    Door(
        "an evaluation before the training",
        "evaluate run=r",
        {"r/train/manifest.json": Path.unlink},
        value="r/train is not a finished stage",
        rule="a finished stage holds manifest.json, written last",
        remedy="run `trialign train` for that run first",
        follow=of("train"),
        outcome="train: built",
    ),
    Door(
        "reinforcement learning where nothing was held out",
        "pipeline run=r evaluate.generator=rl train.rl_holdout=0",
        code=2,
        value="train.rl_holdout=0 in a pipeline with reinforcement learning",
        rule="it learns from positions that supervised training held out",
        remedy="set train.rl_holdout=0.2, or leave rl out with evaluate.generator=train",
        follow=settings("with (evaluate.generator=train)"),
        outcome="the same as a page",
    ),
    Door(
        "a comparison of nothing",
        "report",
        code=2,
        value="report.runs is empty",
        rule="at least one run is named",
        remedy="add 'report.runs=[runs/a,runs/b]'",
        follow=lambda command, remedy: f"{command} 'report.runs=[r]' run=page",
        outcome="page",
    ),
    Door(
        "ranks without a strategy",
        f"train run=n {OF_R} runtime.devices=2 stream.global_batch_size=4 runtime.micro_batch_size=2 train.steps=1",
        code=2,
        value="runtime.strategy=single with runtime.devices=2",
        rule="`single` is one process",
        remedy="set runtime.strategy=ddp, or runtime.devices=1",
        follow=settings("or (runtime.devices=1)"),
        outcome="train: built",
    ),
    Door(
        "ranks for a stage that has one",
        "embed run=r runtime.devices=2",
        code=2,
        value="stream.global_batch_size=8 with 2 ranks (runtime.nodes x runtime.devices) x runtime.micro_batch_size=8",
        rule="global_batch_size is a multiple of ranks x micro_batch_size = 16",
        remedy="set runtime.micro_batch_size=4, or stream.global_batch_size=16",
        follow=settings("set ([^,]+)"),
        outcome="embed: was finished",
    ),
    Door(
        "a verb that no cluster knows",
        "submit trian run=n cluster=gpu --dry-run",
        code=2,
        value="trialign submit trian",
        rule="a stage, or the pipeline, is submitted",
        remedy="did you mean 'train'?",
        follow=lambda command, remedy: command.replace("trian", re.findall("'(.*?)'", remedy)[0]),
        outcome="#SBATCH",
    ),
    Door(
        "no cluster",
        "submit train run=n --dry-run",
        code=2,
        value="no cluster is named",
        rule="a site is a file of conf/cluster/",
        remedy="add cluster=NAME, e.g. cluster=minicluster",
        follow=settings("e\\.g\\. (\\S+)"),
        outcome="#SBATCH",
    ),
    Door(
        "other settings for a job than the run was finished with",
        "submit train run=r cluster=gpu train.steps=3 --dry-run",
        value="r/train was finished with other settings: train.steps 2 -> 3",
        rule="a finished stage is never changed silently",
        remedy="choose another run=DIR",
        follow=lambda command, remedy: command.replace("run=r", "run=n"),
        outcome="train.steps=3",
    ),
    Door(
        "a variable of the jobs",
        "submit train run=n cluster=gpu cluster.environment.X=Y --dry-run",
        code=0,
        value="X=Y",
        outcome="#SBATCH",
    ),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_a_door(door: Door, run: Run, finished: Path) -> None:
    shutil.copytree(finished, "r")
    walk(door, run)


def test_a_second_writer(run: Run, finished: Path) -> None:
    shutil.copytree(finished, "r")
    command = "quantize run=r quantize.codebook_size=16 rebuild=true"
    with ExitStack() as first:
        first.enter_context(locked(Path("r/quantize")))
        said = run(command)
        assert said.code == 1
        assert "r/quantize is being written by another process (pid " in said.err
        assert "rule:   one writer per stage folder" in said.err
        assert "remedy: wait for it or stop it" in said.err
    assert run(command).out.count("quantize: built") == 1


def test_a_cluster_without_slurm(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = "submit prepare run=n cluster=gpu"
    said = run(command)
    assert said.code == 1
    assert "there is no `sbatch` on PATH" in said.err
    assert "rule:   jobs are submitted where Slurm's commands are" in said.err
    assert "remedy: go to a login node" in said.err
    for name, answer in {"sbatch": "echo 7", "sinfo": "echo 'gpu|1|64|gpu:8'", "squeue": ":", "sacct": ":"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    assert "trialign status run=" in run(command).out
