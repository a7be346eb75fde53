"""A source of the user's own: a class that a YAML file names, next to no schema."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest
from ibis import memtable

from trialign.config.compose import compose
from trialign.config.instantiate import create
from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare
from trialign.data.source import RawData
from trialign.errors import ConfigError


class Ring:
    """Users who go through the items in turn."""

    def __init__(self, *, num_users: int, max_history: int = 5) -> None:
        self.num_users, self.max_history = num_users, max_history

    def sources(self) -> dict[str, Path]:
        return {}

    def load(self, folder: Path) -> RawData:
        keys = ["a", "b", "c", "d", "e", "f"]
        texts = {name: [""] * len(keys) for name in ("title", "description", "brand")}
        items = pa.table({"item": keys, **texts, "categories": pa.array([[]] * len(keys), pa.list_(pa.string()))})
        rows = [(f"u{user}", keys[(user + place) % 6], place) for user in range(self.num_users) for place in range(6)]
        events = pa.table(dict(zip(("user", "item", "order"), map(list, zip(*rows, strict=True)), strict=True)))
        return RawData(items=items, has_clock=False, events=memtable(events))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the overrides by which a file of the user's own is chosen."""
    monkeypatch.setitem(sys.modules, "my_shop", sys.modules[Ring.__module__])
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "mine.yaml").write_text(
        "_target_: my_shop.Ring\nnum_users: 7\nmax_history: 9\nblock_records: 3\n"
    )
    return [f"hydra.searchpath=['file://{tmp_path / 'own'}']", "data=mine", f"run={tmp_path / 'run'}"]


def test_it_takes_its_own_settings_and_prepare_those_of_every_source(words: list[str], tmp_path: Path) -> None:
    config = compose("prepare", [*words, "data.max_history=4"])
    source = create(config.data, "data")
    assert (source.num_users, source.max_history) == (7, 4)
    assert prepare(source, tmp_path, config.data)["users"] == 7
    dataset = Dataset(tmp_path)
    assert max(map(len, dataset.evaluation("test").histories)) == 4
    assert dataset.store("train").num_blocks > 2
    assert config.identity["data"]["split"] == "leave_one_out"
    assert "memory" not in config.identity["data"]


def test_a_mistyped_key_is_held_against_the_signature(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'num_users'"):
        create(compose("prepare", [*words, "+data.num_user=3"]).data, "data")
