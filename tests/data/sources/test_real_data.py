"""The experiments' data, prepared as configured; figures as the data sets' own notes print them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trialign.config.compose import compose
from trialign.config.instantiate import create
from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare

Shared = Callable[[str], Path]


@pytest.fixture
def prepared(tmp_path: Path, shared_data: Shared) -> Callable[..., tuple[Dataset, dict[str, Any]]]:
    """Return a function from an experiment, its data's folder and overrides to the dataset and its counts."""

    def make(experiment: str, name: str, *overrides: str) -> tuple[Dataset, dict[str, Any]]:
        settings = [f"run={tmp_path}", f"experiment={experiment}", f"data.root={shared_data(name).parent}", *overrides]
        data = compose("prepare", settings).data
        folder = tmp_path / experiment
        folder.mkdir()
        counts = prepare(create(data, "data"), folder, data)
        return Dataset(folder), counts

    return make


Prepared = Callable[..., tuple[Dataset, dict[str, Any]]]


@pytest.mark.parametrize(
    ("experiment", "name", "users", "items", "events"),
    [
        ("beauty", "amazon2014_beauty", 22_363, 12_101, 198_502),
        ("scientific", "amazon2018_scientific", 8_317, 4_344, 58_492),
    ],
)
def test_logs_with_leave_one_out(
    prepared: Prepared, experiment: str, name: str, users: int, items: int, events: int
) -> None:
    dataset, counts = prepared(experiment, name)
    assert [counts[what] for what in ("users", "items", "events")] == [users, items, events]
    assert [len(found) for found in dataset.evaluation("test").targets] == [1] * users


def test_posters_of_the_movies_with_five_ratings(prepared: Prepared) -> None:
    dataset, counts = prepared("movielens_posters", "ml_latest_small_posters")
    assert [counts[what] for what in ("users", "items", "images")] == [610, 3_650, 3_633]
    assert [len(found) for found in dataset.evaluation("test").targets] == [10] * 610
    toys = dataset.items.slice(dataset.item_of("1"), 1).to_pylist()[0]
    assert (toys["title"], toys["categories"][:2]) == ("Toy Story (1995)", ["Adventure", "Animation"])
    assert toys["description"].count("\n") == 1


def test_all_posters_and_all_ratings(shared_data: Shared, tmp_path: Path) -> None:
    root = shared_data("ml_latest_small_posters").parent
    settings = compose("prepare", ["run=unused", "experiment=movielens_posters", f"data.root={root}"]).data
    raw = create(settings, "data").load(tmp_path)
    assert raw.items.num_rows == 9_724
    assert raw.events.count().execute() == 100_836
    assert len({key for key, _ in raw.images()}) == 8_976


def test_examples_with_a_given_split_and_captions(prepared: Prepared) -> None:
    dataset, counts = prepared("vlm_captions", "amazon2023_industrial_vlm_captions")
    # 6,177 users have train examples, the others were dealt to validation or test alone.
    assert [counts["users"], counts["users_not_trained"], counts["items"]] == [7_595, 1_418, 1_204]
    assert counts["examples"] == {"train": 7_672, "validation": 959, "test": 959}
    assert len(dataset.evaluation("test").users) == 959
    sign = dataset.items.slice(dataset.item_of("0"), 1).to_pylist()[0]
    assert sign["caption"].startswith("A white rectangular sign with a red border and bold red text")
    assert sign["title"].startswith("Please Deliver All Packages")
    assert all(dataset.items["caption"].to_pylist())
