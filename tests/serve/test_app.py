"""Requests and their answers."""

from __future__ import annotations

from starlette.testclient import TestClient


def keys(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return [item["item"] for item in answer["items"]]


def test_a_history_is_answered_with_the_items_that_the_ranker_finds(client: TestClient) -> None:
    answer = client.post("/recommend", json={"items": ["k2", "k5", "nope"], "k": 3})
    assert answer.status_code == 200
    body = answer.json()
    assert body["items"][0] == {"rank": 1, "item": "k6", "title": "Thing 6 of blue wool", "sid": [1, 2], "score": -1.0}
    assert keys(body) == ["k6", "k7", "k8"]
    assert (body["history"], body["unknown"], body["bundle"], body["fewer"]) == (["k2", "k5"], ["nope"], "first", None)


def test_seen_items_are_left_out_unless_they_are_wanted(client: TestClient) -> None:
    history = ["k6", "k7", "k5"]
    assert keys(client.post("/recommend", json={"items": history, "k": 2}).json()) == ["k8", "k9"]
    body = client.post("/recommend", json={"items": history, "k": 2, "exclude_seen": False}).json()
    assert keys(body) == ["k6", "k7"]


def test_a_user_is_looked_up_and_older_items_are_left_out_too(client: TestClient) -> None:
    body = client.post("/recommend", json={"user": "u0", "k": 3}).json()
    assert (body["history"], keys(body)) == (["k3", "k4"], ["k5", "k6", "k8"])


def test_fewer_items_than_wanted_are_explained(client: TestClient) -> None:
    body = client.post("/recommend", json={"items": [f"k{item}" for item in range(10)], "k": 5}).json()
    assert keys(body) == ["k10", "k11"]
    assert body["fewer"].startswith("2 of 5 items")


def test_items_are_found_by_words_of_their_title_and_by_key(client: TestClient) -> None:
    assert keys(client.get("/items", params={"search": "WOOL red", "k": 2}).json()) == ["k1", "k3"]
    assert keys(client.get("/items", params={"search": "k7"}).json()) == ["k7"]
    assert len(keys(client.get("/items").json())) == 12
    assert client.get("/items/k7").json()["sid"] == [1, 3]
    assert client.get("/items/none").status_code == 404


def test_the_page_health_and_readiness_are_there(client: TestClient) -> None:
    assert "trialign" in client.get("/").text
    assert client.get("/health").json() == {"status": "alive", "bundle": "first"}
    assert client.get("/ready").json()["status"] == "ready"
