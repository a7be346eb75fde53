"""What the routes of the page answer, of the smallest finished run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from trialign.serve.served import RunSource, Served


@pytest.fixture(scope="module")
def of_run(finished: Path) -> Served:
    settings: dict[str, Any] = {"from_stage": {}, "generator": "train", "accelerator": "cpu"}
    return RunSource(finished, **settings, num_beams=20, batch_size=8).load()


@pytest.fixture
def page(of_run: Served, make_client: Callable[..., TestClient]) -> TestClient:
    return make_client(of_run, num_beams=20)


def test_about_says_what_the_service_offers(page: TestClient, client: TestClient) -> None:
    of_run, of_bundle = page.get("/about").json(), client.get("/about").json()
    assert (of_run["items"], of_run["levels"], of_run["exact"]) == (64, 3, False)
    assert [of_run[name] for name in ("users", "pictures", "walk")] == [True] * 3
    assert [of_bundle[name] for name in ("users", "pictures", "walk")] == [False] * 3
    assert of_run["bundle"] == page.get("/health").json()["bundle"]


def test_a_user_comes_with_the_history_before_the_held_out_event(page: TestClient, of_run: Served) -> None:
    found = page.get("/users/user-0000002").json()
    assert of_run.user is not None
    now = [of_run.catalogue.keys[item] for item in of_run.user("user-0000002").history]
    assert [item["item"] for item in [*found["items"], *found["next"]]] == now
    assert len(found["next"]) == 1
    assert page.get("/sample").json()["user"].startswith("user-")


@pytest.mark.parametrize("place", ["/users/nobody", "/codes?prefix=99", "/codes?prefix=0.0.0.0"])
def test_what_does_not_exist_is_told_with_a_rule_and_a_remedy(page: TestClient, place: str) -> None:
    answer = page.get(place)
    assert answer.status_code == 404
    assert all(answer.json()["error"][part] for part in ("value", "rule", "remedy"))


def test_a_bundle_has_no_users_and_no_walk(client: TestClient) -> None:
    for answer in (client.get("/users/u0"), client.post("/walk", json={"items": ["k1"]})):
        assert answer.status_code == 404
        assert "trialign serve run=DIR" in answer.json()["error"]["remedy"]
    assert len(client.get("/sample").json()["items"]) == 3
    assert client.get("/codes").json()["items"] == 12


def test_the_walk_ends_with_what_is_recommended(page: TestClient) -> None:
    asked = {"items": ["item-0000007", "item-0000010"], "k": 10, "blocked": ["item-0000020"]}
    best = page.post("/recommend", json=asked).json()["items"]
    levels = page.post("/walk", json=asked).json()["levels"]
    assert [level["kept"] for level in levels] == [min(20, level["weighed"]) for level in levels[:2]] + [20]
    for depth, level in enumerate(levels, start=1):
        for item in best:
            (row,) = [row for row in level["prefixes"] if item["rank"] in row["leads"]]
            assert row["codes"] == item["sid"][:depth]
            assert row["fate"] == "kept"
            assert np.log(row["probability"]) >= item["score"] - 1e-4
        assert {rank for row in level["prefixes"] for rank in row["leads"]} == set(range(1, 11))
        assert level["mass"] <= 1 + 1e-5
    last = [row for row in levels[-1]["prefixes"] if row["leads"]]
    np.testing.assert_allclose(
        [np.log(row["probability"]) for row in last], [item["score"] for item in best], atol=1e-4
    )


def test_codes_lead_to_all_items_and_items_share_more_than_others(page: TestClient) -> None:
    root = page.get("/codes").json()
    assert sum(row["items"] for row in root["codes"]) == root["items"] == 64
    first = root["codes"][0]
    found = page.get(f"/codes?prefix={first['codes'][0]}").json()
    assert found["items"] == first["items"] == len(found["below"])
    assert all(item["sid"][0] == first["codes"][0] for item in found["below"])
    assert all(trait["share"] > trait["expected"] and trait["items"] > 1 for trait in found["shared"])
    assert first["codes"] not in [row["codes"] for row in found["neighbours"]]


def test_an_item_without_a_picture_has_a_quiet_letter(page: TestClient, of_run: Served) -> None:
    assert of_run.of_run is not None
    has_image_N = of_run.of_run.items["has_image"].to_numpy()
    seen, unseen = (of_run.catalogue.keys[int(np.flatnonzero(has_image_N == value)[0])] for value in (True, False))
    shown = page.get(f"/pictures/{seen}")
    assert shown.headers["content-type"] == "image/jpeg"
    assert shown.content[:2] == b"\xff\xd8"
    for key in (unseen, "<unknown>"):
        answer = page.get(f"/pictures/{key}")
        assert answer.headers["content-type"] == "image/svg+xml"
