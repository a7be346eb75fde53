"""The source as a whole: what it writes, that a seed fixes it, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from trialign.config.data import StorefrontConfig
from trialign.storefront import Storefront

SETTINGS = StorefrontConfig(seed=1, num_items=60, num_users=30)


def files(folder: Path, **changes: Any) -> dict[str, bytes]:
    """Return the bytes of every file a storefront writes."""
    Storefront(replace(SETTINGS, **changes)).load(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_handed_over_is_what_is_written(tmp_path: Path) -> None:
    shop = Storefront(SETTINGS)
    raw = shop.load(tmp_path)
    events = raw.events.to_pyarrow()
    assert events.equals(pq.read_table(tmp_path / "events.parquet"))
    assert raw.items.to_pylist() == [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert raw.images is not None
    assert {f"{item}.jpg": picture for item, picture in raw.images()} == {
        path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()
    }
    assert 0 < len(list(raw.images())) < shop.settings.num_items
    assert not raw.has_clock
    assert shop.sources() == {}


def test_events_are_the_histories_in_order(tmp_path: Path) -> None:
    shop = Storefront(SETTINGS)
    raw = shop.load(tmp_path)
    events, keys = raw.events.to_pyarrow().to_pylist(), raw.items["item"].to_pylist()
    assert keys == sorted(keys)
    for user, history in zip(sorted({event["user"] for event in events}), shop.histories(shop.taste()), strict=True):
        own = [event for event in events if event["user"] == user]
        assert [event["item"] for event in own] == [keys[item] for item in history]
        assert [event["order"] for event in own] == list(range(len(own)))


def test_the_oracle_is_that_of_the_items_table(tmp_path: Path) -> None:
    shop = Storefront(SETTINGS)
    raw = shop.load(tmp_path)
    keys = raw.items["item"].to_pylist()
    assert raw.oracle is not None
    found = raw.oracle.next_item([keys[7], keys[3]])
    np.testing.assert_array_equal(found, shop.taste().next_item(np.array([[7, 3]]))[0])


def test_a_seed_fixes_every_byte_and_another_changes_them(tmp_path: Path) -> None:
    first = files(tmp_path / "a")
    assert files(tmp_path / "b") == first
    other = files(tmp_path / "c", seed=2)
    common = first.keys() & other.keys()
    assert {"events.parquet", "items.jsonl"} < common
    assert not [name for name in common if first[name] == other[name]]


def test_more_users_leave_the_catalogue_and_the_first_users_alone(tmp_path: Path) -> None:
    few, many = files(tmp_path / "a"), files(tmp_path / "b", num_users=500)
    assert few.keys() == many.keys()
    assert [name for name in few if few[name] != many[name]] == ["events.parquet"]
    events = pq.read_table(tmp_path / "a" / "events.parquet")
    assert pq.read_table(tmp_path / "b" / "events.parquet").slice(0, len(events)).equals(events)


def test_knobs_leave_the_catalogue_alone_and_change_what_is_chosen(tmp_path: Path) -> None:
    full = files(tmp_path / "a")
    for knob in ("style_weight", "purpose_weight"):
        without = files(tmp_path / knob, **{knob: 0.0})
        assert [name for name in full if full[name] != without[name]] == ["events.parquet"]


def test_a_larger_catalogue_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small, large = files(tmp_path / "a"), files(tmp_path / "b", num_items=90)
    assert large["items.jsonl"].startswith(small["items.jsonl"])
    assert all(large[name] == small[name] for name in small if name.startswith("images"))


def test_lengths_stay_in_the_stated_range_and_below_half_a_tiny_catalogue() -> None:
    shop = Storefront(replace(SETTINGS, num_items=300, num_users=2000))
    lengths = [len(history) for history in shop.histories(shop.taste())]
    assert (min(lengths), max(lengths)) == (8, 30)
    assert 13 <= np.mean(lengths) <= 15
    tiny = Storefront(replace(SETTINGS, num_items=16))
    assert {len(set(history)) for history in tiny.histories(tiny.taste())} == {8}


def test_junk_interests_are_of_another_purpose_half_of_them_from_the_own_category() -> None:
    shop = Storefront(replace(SETTINGS, num_items=4000, junk_share=0.1))
    truth, from_N = shop.attributes(), shop.interests_from()
    junk_N = from_N != np.arange(4000)
    assert 0.08 < junk_N.mean() < 0.12
    assert (truth.purpose_N[from_N[junk_N]] != truth.purpose_N[junk_N]).all()
    near = (truth.category_N[from_N[junk_N]] == truth.category_N[junk_N]).mean()
    assert 0.4 < near < 0.65  # half by intent, and one in 32 of the others by chance
    assert (Storefront(SETTINGS).interests_from() == np.arange(60)).all()


def test_junk_changes_neither_catalogue_nor_choices(tmp_path: Path) -> None:
    assert files(tmp_path / "junk", junk_share=0.5) == files(tmp_path / "none")
