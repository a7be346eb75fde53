"""What a newcomer mistypes: verbs, settings, choices, values. Next to each lies a finished run, `r`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.doors.door import Door, Follow, Run, instead, settings, walk

DONE = "train: was finished, nothing to do"


def in_place_of(wrong: str, pattern: str) -> Follow:
    """Follow by typing what a pattern's group finds in the remedy in place of a word."""

    def follow(command: str, remedy: str) -> str:
        found = re.search(pattern, remedy)
        assert found, remedy
        return command.replace(wrong, found[1])

    return follow


DOORS = [
    Door(
        "a verb",
        "trian run=r",
        code=2,
        value="'trian' is no verb",
        rule="trialign VERB",
        remedy="did you mean 'train'?",
        follow=instead(),
        outcome=DONE,
    ),
    Door(
        "an experiment's key",
        "train run=n experimet=beauty --cfg job",
        code=2,
        value="unknown setting 'experimet'",
        rule="settings exist in a schema",
        remedy="did you mean 'experiment'?",
        follow=instead(),
        outcome="amazon2014_beauty",
    ),
    Door(
        "an experiment",
        "train run=n experiment=quickstrat --cfg job",
        code=2,
        value="Could not find 'experiment/quickstrat'",
        rule="a choice is one of the options of its group",
        remedy="did you mean 'quickstart'?",
        follow=in_place_of("quickstrat", "(quickstart)"),
        outcome="accelerator:",
    ),
    Door(
        "a choice",
        "quantize run=n quantize=rkmean --cfg job",
        code=2,
        value="Could not find 'quantize/rkmean'",
        rule="a choice is one of the options of its group",
        remedy="known: rkmeans, rqvae",
        follow=in_place_of("rkmean", "known: (\\w+)"),
        outcome="trialign.quantize.rkmeans",
    ),
    Door(
        "a setting of another choice",
        "train run=n train.backbone.hidden_size=32 train/backbone=pretrained --cfg job",
        code=2,
        value="train.backbone.hidden_size is no setting of the train/backbone that is chosen",
        rule="each choice has settings of its own",
        remedy="leave train.backbone.hidden_size out, or choose train/backbone=scratch",
        follow=in_place_of("train/backbone=pretrained", "choose (\\S+)"),
        outcome="hidden_size: 32",
    ),
    Door(
        "a setting without its group",
        "train run=r steps=2",
        code=2,
        value="unknown setting 'steps'",
        rule="settings exist in a schema",
        remedy="did you mean 'train.steps' or 'rl.steps'?",
        follow=in_place_of("steps", "'([^']+)'"),
        outcome=DONE,
    ),
    Door(
        "a setting behind a plus",
        "train run=r +train.setps=2",
        code=2,
        value="unknown setting 'train.setps'",
        rule="settings exist in a schema",
        remedy="did you mean 'train.steps'?",
        follow=in_place_of("+train.setps", "'([^']+)'"),
        outcome=DONE,
    ),
    Door(
        "a setting that is nowhere",
        "train run=r +key=1",
        code=2,
        value="unknown setting 'key'",
        rule="settings exist in a schema",
        remedy="known: assign, baselines, cluster",
        follow=lambda command, remedy: command.replace("+key=1", ""),
        outcome=DONE,
    ),
    Door(
        "a setting with dashes",
        "train run=r --train.steps=2",
        code=2,
        value="'--train.steps=2' is no option",
        rule="settings read key=value, without dashes",
        remedy="did you mean 'train.steps'? Write it as KEY=2",
        follow=in_place_of("--train.steps", "'([^']+)'"),
        outcome=DONE,
    ),
    Door(
        "a setting without a value",
        "train run",
        code=2,
        value="'run' cannot be read",
        rule="an override reads key=value",
        remedy="write it as 'key=\"value\"'",
        follow=lambda command, remedy: command + "='\"r\"'",
        outcome=DONE,
    ),
    Door(
        "no run",
        "train",
        code=2,
        value="no run directory",
        rule="a setting without a default must be given",
        remedy="add run=DIR",
        follow=lambda command, remedy: f"{command} run=r",
        outcome=DONE,
    ),
    Door(
        "a word for a number",
        "train run=r seed=abc",
        code=2,
        value="seed: Value 'abc' of type 'str' could not be converted to Integer",
        rule="a value has its setting's type",
        remedy="seed is a whole number",
        follow=lambda command, remedy: command.replace("abc", "0"),
        outcome=DONE,
    ),
    Door(
        "a number for a list",
        "train run=r train.betas=0.9",
        code=2,
        value="train.betas",
        rule="a value has its setting's type",
        remedy="train.betas is a list, 'train.betas=[A,B]'; its default is [0.9, 0.98]",
        follow=lambda command, remedy: command.replace("0.9", re.findall(r"\[.*?\]", remedy)[-1].replace(" ", "")),
        outcome=DONE,
    ),
    Door(
        "a share above 1",
        "train run=r train.rl_holdout=1.5",
        code=2,
        value="train.rl_holdout=1.5",
        rule="train.rl_holdout is at least 0 and below 1",
        remedy="set train.rl_holdout=0.0",
        follow=settings("set (\\S+)"),
        outcome=DONE,
    ),
    Door(
        "an odd number of heads",
        "train run=n from.prepare=r from.assign=r train.backbone.num_heads=3 train.backbone.hidden_size=64 "
        "train.steps=1",
        code=2,
        value="train.backbone.hidden_size=64 with num_heads=3",
        rule="every head has the same width",
        remedy="set train.backbone.hidden_size=66",
        follow=lambda command, remedy: command.replace("train.backbone.hidden_size=64", remedy.split()[-1]),
        outcome="train: built",
    ),
    Door(
        "a name where one of a few is asked for",
        "evaluate run=r evaluate.split=tset",
        code=2,
        value="evaluate.split=tset",
        rule="evaluate.split is a known choice",
        remedy="did you mean 'test'?",
        follow=in_place_of("tset", "'([^']+)'"),
        outcome="the same as a page",
    ),
    Door(
        "a group taken out",
        "train run=r ~train",
        code=2,
        value="~train takes a group out",
        rule="every group is there",
        remedy="leave ~train out",
        follow=lambda command, remedy: command.replace(" " + remedy.split()[1], ""),
        outcome=DONE,
    ),
    Door(
        "a folder of settings",
        "train run=r --config-dir mine",
        code=2,
        value="--config-dir mine",
        rule="a folder of your own YAML files",
        remedy="name a folder that is there: --config-dir DIR",
        follow=lambda command, remedy: command.replace("mine", "r"),
        outcome=DONE,
    ),
    Door(
        "no amount of memory",
        "prepare run=n data.num_items=64 data.num_users=40 data.memory=lots",
        code=2,
        value="data.memory=lots",
        rule="a number and a unit: KB, MB, GB or TB",
        remedy="set data.memory=2GB",
        follow=settings("(data.memory=.*)"),
        outcome="prepare: built",
    ),
    Door(
        "no user to evaluate",
        "evaluate run=n from.prepare=r from.assign=r from.train=r from.baselines=r evaluate.users=0 "
        "'evaluate.baselines=[popularity]' evaluate.unconstrained_users=0",
        code=2,
        value="evaluate.users=0",
        rule="evaluate.users is at least 1",
        remedy="set evaluate.users=1 or more",
        follow=settings("set (\\S+)"),
        outcome="the same as a page",
    ),
    Door(
        "a bucket that is none",
        "recommend run=s3://b/r recommend.user=user-0000003",
        code=2,
        value="run=s3://b/r is an address, not a path",
        rule="folders that this machine sees",
        remedy="mount s3 as a folder, or copy it here, and name that path by run",
        follow=lambda command, remedy: command.replace("s3://b/r", "r"),
        outcome="user-0000003",
    ),
    Door(
        "a catalogue in a bucket",
        "prepare data=tables data.root=s3://b data.events=e.csv data.items=i.csv run=n",
        {
            "b/e.csv": "user,item,time\n"
            + "".join(f"u{u},i{(u + t) % 8},{1714500000 + t}\n" for u in range(9) for t in range(4)),
            "b/i.csv": "item,title\n" + "".join(f"i{item},Title {item}\n" for item in range(8)),
        },
        code=2,
        value="data.root=s3://b is an address, not a path",
        rule="folders that this machine sees",
        remedy="copy it here, and name that path by data.root",
        follow=lambda command, remedy: command.replace("s3://b", "b") + " data.columns.time=time data.time_unit=s",
        outcome="items 8",
    ),
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_a_door(door: Door, run: Run, finished: Path) -> None:
    shutil.copytree(finished, "r")
    walk(door, run)
