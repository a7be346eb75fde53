"""What CONTRIBUTING.md says of adding things, followed to the letter in a copy of the package, and run."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trialign.launch.doctor import TINY

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
_CODE = re.compile(r"```(?:python|yaml)\n# ([^\n,]+?)(?:, (below|instead of): ([^\n]+))?\n(.*?)```", re.DOTALL)
RECIPES = [
    *("train.tasks.title_to_brand=1", "train.backbone.architecture=mistral", "rl.rewards.same_start=1"),
    *("evaluate.baselines=[popularity,last_items]", "embed/image=none"),
]
REINFORCED = [
    *("train.rl_holdout=0.3", "evaluate.generator=rl", "rl.steps=1", "rl.num_iterations=1", "rl.group_size=2"),
    *("rl.prompts_per_step=2", "rl.validation.users=4", "evaluate.users=8", "evaluate.grounding.items=4"),
]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which every recipe with code was followed."""
    copy = tmp_path_factory.mktemp("copy")
    nothing_compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "trialign", copy / "trialign", ignore=nothing_compiled)
    for mounted in ("launch", "conf"):
        shutil.copytree(ROOT / mounted, copy / "trialign" / mounted, ignore=nothing_compiled)
        (copy / mounted).symlink_to(copy / "trialign" / mounted)
    for name, how, line, code in _CODE.findall((ROOT / "CONTRIBUTING.md").read_text()):
        path = copy / name
        if not how:
            assert not path.exists(), name
            path.write_text(code)
            continue
        lines = path.read_text().splitlines(keepends=True)
        (place,) = (number for number, text in enumerate(lines) if text.strip().startswith(line))
        lines[place : place + 1] = [lines[place], code] if how == "below" else [code]
        path.write_text("".join(lines))
    return copy


def trialign(copy: Path, *words: str) -> str:
    """Return what a command of the copy prints."""
    start = "import trialign, sys; from trialign.launch.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", start, *words],
        cwd=copy.parent,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout


@pytest.fixture(scope="module")
def run(followed: Path) -> Path:
    """A tiny run with a task, a backbone, a reward and a baseline by the recipes."""
    folder = followed.parent / "recipes"
    trialign(followed, "pipeline", f"run={folder}", *TINY, *RECIPES, *REINFORCED)
    return folder


def test_a_metric_is_a_column_of_every_ranker(run: Path) -> None:
    record = json.loads((run / "evaluate" / "metrics.json").read_text())
    for found in (record["model"], *record["baselines"].values()):
        assert found["precision@10"] == pytest.approx(found["recall@10"] / 10)  # one target each
    assert "precision@10" not in record["oracle"]
    assert "P@10" in (run / "evaluate" / "report.html").read_text()


def test_a_task_is_trained_and_evaluated(run: Path) -> None:
    grounding = json.loads((run / "evaluate" / "metrics.json").read_text())["grounding"]
    assert grounding["writes"]["title_to_brand"]["items"] == 4
    assert "title_to_brand" in json.loads((run / "train" / "generator.json").read_text())["tasks"]


def test_a_backbone_is_built_from_scratch(run: Path) -> None:
    assert json.loads((run / "train" / "generator.json").read_text())["backbone"]["model_type"] == "mistral"


def test_a_baseline_is_a_row_of_the_table(run: Path) -> None:
    assert "last_items" in json.loads((run / "evaluate" / "metrics.json").read_text())["baselines"]


def test_a_reward_is_paid(run: Path) -> None:
    manifest = json.loads((run / "rl" / "manifest.json").read_text())
    assert manifest["config"]["rl"]["rewards"]["same_start"] == 1.0
    assert manifest["counts"]["prompts"] > 0
    with (run / "rl" / "log" / "metrics.csv").open() as file:
        paid = [float(line["reward/same_start"]) for line in csv.DictReader(file) if line["reward"]]
    assert paid, "no step was paid"
    assert all(0 <= reward <= 1 for reward in paid)


def test_a_verb_runs(followed: Path, run: Path) -> None:
    assert len(trialign(followed, "head", f"run={run}", "head.items=3").splitlines()) == 3
    assert "items that are shown" in trialign(followed, "head", "--help")


def test_a_cluster_is_composed(followed: Path) -> None:
    shown = trialign(followed, "submit", "prepare", "run=runs/a", "cluster=ours", "--cfg", "job")
    assert "partition: batch" in shown
