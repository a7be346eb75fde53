"""Semantic IDs that say little of their items are warned of, or refused; real ones are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from trialign.launch.cli import script

from trialign.config.assign import AssignConfig
from trialign.config.compose import compose
from trialign.errors import ConfigError, DataError
from trialign.semid.assign import Assignment
from trialign.semid.health import faults
from trialign.semid.policy import ItemCodes, make_table
from trialign.semid.quality import quality
from trialign.semid.record import Quality
from trialign.semid.released import read_index

ITEMS = 300


def measured(assigned: Assignment, codebook_size: int) -> Quality:
    num_items = len(assigned.codes_NL)
    return quality(
        assigned,
        codebook_size,
        evidence_N=np.arange(num_items),
        categories=[[]] * num_items,
        pairs_P2=np.empty((0, 2), np.int64),
        quantizer={},
    )


def judged(codes_NL: NDArray[np.int64], codebook_size: int, *, moved: int = 0) -> list[str]:
    return list(faults(measured(Assignment(codes_NL, codes_NL, items_moved=moved), codebook_size), AssignConfig()))


def shop(folder: Path, num_texts: int) -> list[str]:
    """Write a shop of ITEMS items with so many different titles; return the overrides that read it."""
    colors = ["red", "blue", "green", "black", "white", "pink", "grey", "gold", "teal", "plum"]
    things = ["shirt", "hat", "shoe", "sock", "coat", "belt", "bag", "scarf", "glove", "ring"]
    shapes = ["round", "long", "short"]
    titles = [f"{color} {shape} {thing}" for shape in shapes for thing in things for color in colors][:num_texts]
    rows = [f"i{item},{titles[item % num_texts]}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,title", *rows]) + "\n")
    events = [f"u{user},i{(user * 5 + n) % ITEMS},{10**9 + 86400 * n + user}" for user in range(60) for n in range(5)]
    (folder / "events.csv").write_text("\n".join(["user,item,time", *events]) + "\n")
    read = ["data=tables", f"data.root={folder}", "data.events=events.csv", "data.items=items.csv"]
    read += ["data.columns.time=time", "data.time_unit=s"]
    small = ["embed.image=null", "embed.text.dim=8", "quantize.codebook_size=16", "quantize.num_levels=3"]
    return [f"run={folder / 'run'}", *read, *small]


def make(verbs: Sequence[str], overrides: Sequence[str]) -> Path:
    for verb in verbs:
        stage = script(verb)(compose(verb, overrides))
    return stage.folder


def test_few_distinct_texts_are_warned_of_in_log_record_and_page_and_refused_by_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = shop(tmp_path, 11)
    make(["prepare", "embed", "quantize"], overrides)
    with pytest.raises(DataError, match=r"289 of 300 items .* moved") as refused:
        make(["assign"], [*overrides, "assign.unhealthy=refuse"])
    assert "assign.unhealthy=warn" in refused.value.remedy
    assert not (tmp_path / "run" / "assign" / "quality.json").exists()
    caplog.clear()
    folder = make(["assign"], overrides)
    assert "unhealthy semantic IDs: 289 of 300 items (96.3%)" in caplog.text
    assert "289 items have the text and pictures of an earlier one" in caplog.text
    health = json.loads((folder / "quality.json").read_text())["health"]
    assert (health["max_moved"], health["min_perplexity"]) == (0.25, 4.0)
    assert "289 of 300" in health["faults"][0]
    page = (folder / "quality.html").read_text()
    assert "<b>Unhealthy:</b> 289 of 300 items" in page
    caplog.clear()
    assert make(["assign"], overrides) == folder
    assert "289 of 300" in caplog.text, "a finished stage is not silent either"
    with pytest.raises(DataError, match="289 of 300"):
        make(["assign"], [*overrides, "assign.unhealthy=refuse"])
    make(["assign"], [*overrides, "assign.unhealthy=refuse", "assign.max_moved=0.97", "assign.min_perplexity=0"])


def test_as_many_texts_as_items_are_healthy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(["prepare", "embed", "quantize", "assign"], [*shop(tmp_path, ITEMS), "assign.unhealthy=refuse"])
    assert "unhealthy" not in caplog.text
    assert json.loads((folder / "quality.json").read_text())["health"]["faults"] == []
    assert "Healthy: at most 25.0% of the items moved" in (folder / "quality.html").read_text()


@pytest.mark.parametrize(("moved", "num_faults"), [(250, 0), (251, 1)])
def test_a_quarter_of_the_items_may_be_moved(moved: int, num_faults: int) -> None:
    codes_NL = np.stack([np.arange(1000) // 100, np.arange(1000) % 100 // 10, np.arange(1000) % 10], axis=1)
    assert len(judged(codes_NL, 10, moved=moved)) == num_faults


def test_a_level_is_worth_its_perplexity_not_the_codes_that_occur() -> None:
    """Hand-worked: 100 codes of which one has .9 of the items: exp(-.9 ln .9 - .1 ln(.1 / 99)) = 2.19."""
    first_N = np.concatenate([np.zeros(891, np.int64), np.arange(1, 100)])
    codes_NL = np.stack([first_N, np.arange(990) % 100, np.arange(990) // 100], axis=1)
    found = judged(codes_NL, 100)
    assert len(found) == 1
    assert "the 100 codes of level 1 are worth 2.2 equally used ones" in found[0]


@pytest.mark.parametrize(("codebook_size", "num_items"), [(2, 8), (3, 27), (16, 3)])
def test_small_codebooks_and_catalogues_are_healthy_where_they_use_what_they_have(
    codebook_size: int, num_items: int
) -> None:
    numbers = np.arange(num_items)
    codes_NL = np.stack([numbers // codebook_size**level % codebook_size for level in range(3)], axis=1)
    if num_items < codebook_size:
        codes_NL = np.repeat(numbers[:, None], 3, axis=1)
    assert judged(codes_NL, codebook_size) == []


@pytest.mark.parametrize("policy", ["reassign", "suffix"])
def test_more_collisions_than_moved_items_there_are_not(policy: str) -> None:
    """So that no threshold of its own is needed."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        latents_ND, books_LKD = rng.normal(size=(60, 4)), rng.normal(size=(2, 9, 4))
        codes_NL = rng.integers(0, rng.integers(2, 9), size=(60, 2))
        coded = ItemCodes(codes_NL, 9, latents_ND.astype(np.float32), books_LKD.astype(np.float32))
        if policy == "suffix" and np.unique(codes_NL, axis=0, return_counts=True)[1].max() > 9:
            continue
        _, assigned = make_table(coded, [str(n) for n in range(60)], policy, 0.8)
        assert assigned.items_moved >= 60 - len(np.unique(assigned.before_NL, axis=0))


def test_of_the_released_sets_the_one_whose_first_code_is_one_is_unhealthy(shared_data: Callable[[str], Path]) -> None:
    unhealthy = {}
    for name in ("amazon2014_beauty", "amazon2018_scientific"):
        for path in sorted((shared_data(name) / "sid").glob("*.index.json")):
            keys = list(json.loads(path.read_text()))
            coded = read_index(path, keys)
            table, assigned = make_table(coded, keys, "suffix", 0.8)
            if found := list(faults(measured(assigned, table.codebook_size), AssignConfig())):
                unhealthy[name, path.name] = found
    assert list(unhealthy) == [("amazon2018_scientific", "mql4grec.index.json")]
    assert "level 1 are worth 1.0" in unhealthy["amazon2018_scientific", "mql4grec.index.json"][0]


@pytest.mark.parametrize(
    ("typed", "told"),
    [("assign.unhealthy=stop", "assign.unhealthy=stop"), ("assign.max_moved=25", "assign.max_moved=25")],
)
def test_what_is_no_threshold_is_refused(tmp_path: Path, typed: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        compose("assign", [f"run={tmp_path}", typed])
