"""A bundle as others meet it: opened, asked again, damaged, and used where trialign is not installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.export.conftest import MAX_HISTORY
from trialign.errors import DataError, StageError
from trialign.export.bundle import Bundle
from trialign.export.files import replay
from trialign.files import digest_of, sha256_of

WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *more):
        hidden = name.split(".")[0] in ("trialign", "torchvision")
        return None if hidden else self.finder.find_spec(name, *more)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
"""What an interpreter begins with that finds no trialign, and no torchvision, which a machine may have in disrepair."""


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle, tmp_path / "copied")


def test_a_bundle_knows_its_items_and_ranks(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.items.titles[3] == "thing 3"
    assert opened.items.table["key"].to_pylist() == opened.items.keys
    assert len(set(opened.items.keys)) == 12
    ranker = opened.ranker(num_beams=12)
    assert ranker.max_history == MAX_HISTORY
    items, scores = ranker.rank_items([np.array([], np.int32)], 12)
    assert sorted(items[0]) == list(range(12))
    assert float(np.exp(scores.astype(float)).sum()) == pytest.approx(1.0, abs=1e-5)
    assert not [path for path in bundle.rglob("*") if path.stat().st_mode & 0o044 != 0o044]


def change_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][-1] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_a_digest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))


def take_another_catalogue(folder: Path) -> None:
    """Two items change their keys, and every digest is made to fit."""
    path = folder / "items" / "sids.json"
    facts = json.loads(path.read_text())
    facts["keys"][:2] = facts["keys"][1::-1]
    path.write_text(json.dumps(facts) + "\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["items/sids.json"] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest["hash"] = digest_of({name: found["sha256"] for name, found in manifest["files"].items()})
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (change_a_weight, "model.safetensors was changed"),
        (change_a_digest, "manifest.json was edited"),
        (lambda folder: (folder / "items" / "items.parquet").unlink(), "lacks items/items.parquet"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not a bundle"),
        (take_another_catalogue, "keys and codes of different catalogues"),
    ],
)
def test_a_damaged_bundle_is_refused_in_words(copy: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(copy)
    with pytest.raises((StageError, DataError), match=told) as error:
        Bundle.open(copy)
    assert "trialign export" in error.value.remedy or "one bundle" in error.value.remedy


def test_another_stage_of_a_run_is_not_a_bundle(source_folder: Path) -> None:
    with pytest.raises(StageError, match="is the stage 'train' of a run"):
        Bundle.open(source_folder)


@pytest.fixture
def source_folder(source: object) -> Path:
    return Path(source.folder)  # type: ignore[attr-defined]


def test_a_replay_says_what_differs(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main(str(copy)) == 0
    prompts = len(json.loads((copy / "parity.json").read_text())["prompts"])
    assert f"{prompts} of {prompts} prompts" in capsys.readouterr().out
    change_a_weight(copy)
    assert replay.main(str(copy)) == 1
    assert re.search(r"prompt \d+ \(\d items\): place \d+ is \d+ \(-\d", capsys.readouterr().out)


def test_items_of_one_score_may_change_places_and_no_others() -> None:
    prompt = replay.Prompt([], [], 3, ["a", "b", "c"], [-1.0, -1.0, -2.0])
    assert replay.difference(prompt, [("b", -1.0), ("a", -1.0), ("d", -2.0)]) is None
    assert replay.difference(prompt, [("c", -1.0), ("a", -1.0), ("b", -2.0)]) == "place 1 is c instead of a"
    assert replay.difference(prompt, [("a", -1.0), ("b", -1.0)]) == "2 items instead of 3"
    assert replay.difference(prompt, [("a", -1.0), ("b", -1.1), ("c", -2.0)]) is not None


def test_the_readme_runs_where_there_is_no_trialign(copy: Path, tmp_path: Path) -> None:
    """Every block of Python in it, in the folder, in an interpreter that cannot import trialign."""
    blocks = re.findall(r"```python\n(.*?)```", (copy / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    probe = "import importlib.util\ntry:\n    import trialign\nexcept ImportError:\n    print('no trialign')\n"
    code = WITHOUT + probe + "\n".join(f"print('block')\n{block}" for block in blocks)
    code += "import runpy; sys.argv = ['replay.py']; runpy.run_path('replay.py', run_name='__main__')\n"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no trialign\nblock\n")
    answers, *lists = done.stdout.split("block\n")[1:]
    assert re.fullmatch(r"(-\d\.\d{3} \d\d\n){5}", answers)
    assert lists[0].strip() == lists[1].splitlines()[0].strip()
    assert "prompts get the recorded items and scores" in lists[1]
