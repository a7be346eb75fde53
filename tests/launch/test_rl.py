"""`trialign rl` by its configuration, and its evaluation in a run of its own next to the supervised one's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.errors import ConfigError, StageError
from trialign.evaluate.runs import read_run

TINY = ["data.num_items=64", "data.num_users=60", "embed.text.dim=8", "embed/image=none", "quantize.codebook_size=8"]
TINY += [
    "runtime.progress=false",
    "runtime.log_every=1",
    "train.rl_holdout=0.3",
    "train.steps=3",
    "evaluate.unconstrained_users=0",
]
TINY += [
    "evaluate.baselines=[popularity]",
    "evaluate.bootstrap_samples=100",
    "rl.steps=2",
    "rl.validation.every=2",
    "rl.validation.users=20",
]


def test_from_a_supervised_run_to_figures_of_its_own(tmp_path: Path) -> None:
    sft, variant = tmp_path / "sft", tmp_path / "variant"
    for verb in ("prepare", "embed", "quantize", "assign", "train", "baselines", "evaluate"):
        script(verb)(compose(verb, [f"run={sft}", *TINY]))
    shared = [f"from.{verb}={sft}" for verb in ("prepare", "assign", "train", "baselines")]
    asked = [f"run={variant}", *TINY, *shared, "evaluate.generator=rl"]
    with pytest.raises(StageError, match="rl is not a finished stage"):
        script("evaluate")(compose("evaluate", asked))
    assert script("rl")(compose("rl", asked)).built
    assert not script("rl")(compose("rl", asked)).built
    script("evaluate")(compose("evaluate", asked))
    one, other = (read_run(folder, folder.name, "test") for folder in (sft, variant))
    assert one.users == other.users
    assert one.generator != other.generator
    assert {"reward", "validation/ndcg@10"} <= other.curves.keys()
    assert other.config["rl.group_size"] == 8
    counts = json.loads((variant / "rl" / "manifest.json").read_text())["counts"]
    assert {"start", "validation", "prompts", "groups_skipped", "stopped"} <= counts.keys()
    with pytest.raises(StageError, match="choose another run"):
        script("evaluate")(compose("evaluate", [f"run={sft}", *TINY, f"from.rl={variant}", "evaluate.generator=rl"]))


def test_what_cannot_work_is_refused_while_composing() -> None:
    for asked, told in (("rl.group_size=1", "rl.group_size is at least 2"), ("rl.objective=ppo", "a known choice")):
        with pytest.raises(ConfigError) as refused:
            compose("rl", ["run=nowhere", asked])
        assert told in refused.value.rule
    with pytest.raises(ConfigError, match=r"rl\.rewards"):
        compose("rl", ["run=nowhere", "rl.rewards.hitt=1"])
