"""The smallest shops: the README's own gets through as it is, others by the one remedy they are refused with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from trialign.launch import pipeline

from trialign.config.compose import compose
from trialign.errors import DataError
from trialign.manifest import Manifest
from trialign.pipeline import StageRun

SECTION = (Path(__file__).resolve().parents[2] / "README.md").read_text().partition("## Your own data")[2]
QUICK = [
    "train.steps=1",
    "train.backbone.hidden_size=16",
    "train.backbone.num_layers=1",
    "train.backbone.num_heads=2",
    "train.backbone.intermediate_size=32",
    "baselines.sasrec.epochs=1",
    "baselines.sasrec.dim=8",
    "evaluate.bootstrap_samples=100",
    "runtime.accelerator=cpu",
    "runtime.progress=false",
]
"""Training made short; what depends on the size of the shop is left as a user has it."""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the two files that the README shows side by side, and go to the folder above."""
    shown = next(block for block in re.split(r"\n\n", SECTION) if block.startswith("    customer,"))
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    (tmp_path / "DIR").mkdir()
    (tmp_path / "DIR" / "orders.csv").write_text("".join(f"{row[0]}\n" for row in rows))
    (tmp_path / "DIR" / "catalogue.csv").write_text("".join(f"{row[1]}\n" for row in rows if len(row) > 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "DIR"


def run(*more: str) -> list[StageRun]:
    """Run the README's command, and what a user types behind it."""
    command = re.search(r"^    trialign pipeline ((?:.*\\\n)*.*)$", SECTION, re.MULTILINE)
    assert command is not None
    words = shlex.split(command[1].replace("\\\n", " "))
    return pipeline.run(compose("pipeline", [*words, *QUICK, *more]))


def refusal(*more: str) -> DataError:
    """Return the refusal, after checking that no stage after `prepare` had begun."""
    with pytest.raises(DataError) as caught:
        run(*more)
    assert {path.name for path in Path("runs/mine").iterdir() if path.is_dir()} <= {"prepare"}
    return caught.value


def pasted(error: DataError) -> list[str]:
    """Return the settings of a remedy, as a shell reads them."""
    assert error.remedy.startswith("set ")
    return shlex.split(error.remedy.removeprefix("set "))


def test_the_shop_of_the_readme_gets_through_and_says_what_was_lowered(shop: Path) -> None:
    assert len((shop / "catalogue.csv").read_text().splitlines()) == 5
    assert {stage.outcome for stage in run()} == {"built"}
    counts = {
        verb: Manifest.read(Path("runs/mine") / verb).counts for verb in ("baselines", "embed", "quantize", "train")
    }
    for notes in (counts["baselines"]["sasrec"]["notes"], counts["embed"]["text"]["notes"]):
        assert notes[0] == "every term counts: fewer than two are in min_df=2 of 4 items"
    assert counts["quantize"]["codebook_stats"]["codebook_size"] == 2
    assert counts["train"]["global_batch_size"] == 2


def test_a_catalogue_of_keys_gets_through_by_the_remedy(shop: Path) -> None:
    rows = (shop / "catalogue.csv").read_text().splitlines()
    (shop / "catalogue.csv").write_text("".join(f"{row.partition(',')[0]}\n" for row in rows))
    keys = ["data.item_columns.title=null"]
    error = refusal(*keys)
    assert error.value == "none of 4 items has a text; no item has a title"
    assert {stage.verb: stage.outcome for stage in run(*keys, *pasted(error))}["evaluate"] == "built"
    [note] = Manifest.read(Path("runs/mine/baselines")).counts["sasrec"]["notes"]
    assert note.startswith("reads item ids alone")


def test_pictures_that_no_item_has_are_refused_before_the_baselines() -> None:
    error = refusal("embed/image=open_clip")
    assert error.value == "none of 4 items has a picture"
    assert pasted(error) == ["embed/image=none"]


@pytest.mark.parametrize(("num_items", "told"), [(0, "the catalogue is empty"), (1, "the catalogue holds 1 item")])
def test_a_catalogue_without_a_choice_is_refused_at_once(shop: Path, num_items: int, told: str) -> None:
    rows = (shop / "catalogue.csv").read_text().splitlines()
    (shop / "catalogue.csv").write_text("".join(f"{row}\n" for row in rows[: num_items + 1]))
    error = refusal("data.missing_items=drop")
    assert error.value == told
    assert "data.items" in error.remedy
