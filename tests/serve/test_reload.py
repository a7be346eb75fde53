"""Reload and rollback: another bundle answers, or the old one goes on."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from starlette.testclient import TestClient

from trialign.errors import StageError

JSON = {"content-type": "application/json"}


def post(client: TestClient, path: str) -> Any:
    return client.post(path, headers=JSON)


def answering(client: TestClient) -> str:
    found: str = client.post("/recommend", json={"items": ["k1"]}).json()["bundle"]
    return found


def shelf_of(client: TestClient) -> Any:
    return client.app.state.service.versions._source  # type: ignore[attr-defined]


def test_a_newer_bundle_answers_and_a_rollback_undoes_it(client: TestClient, served: Any) -> None:
    assert post(client, "/rollback").status_code == 409
    assert post(client, "/reload").json() == {"bundle": "first", "changed": False}
    assert post(client, "/rollback").status_code == 409  # the same bundle again is not another one
    shelf_of(client).then = served("second")
    assert post(client, "/reload").json() == {"bundle": "second", "changed": True}
    assert answering(client) == "second"
    assert post(client, "/rollback").json() == {"bundle": "first", "changed": True}
    assert answering(client) == "first"
    assert post(client, "/rollback").json()["bundle"] == "second"


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (StageError("weights changed", rule="a rule", remedy="a remedy"), "weights changed"),
        (MemoryError("x"), "MemoryError"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_what_cannot_be_loaded_leaves_the_old_one(client: TestClient, broken: Exception, word: str) -> None:
    shelf_of(client).then = broken
    answer = post(client, "/reload")
    assert answer.status_code == 409
    assert word in answer.json()["error"]["value"]
    assert answering(client) == "first"
    assert 'trialign_reloads_total{outcome="refused"} 1.0' in client.get("/metrics").text


def test_a_bundle_that_ranks_nothing_is_refused(client: TestClient, served: Any) -> None:
    def nothing(histories: Any, k: int, **how: Any) -> Any:
        items, scores = served().rank(histories, k, **how)
        return items, scores * float("nan")

    shelf_of(client).then = served("second", rank=nothing)
    assert "no item with a finite score" in post(client, "/reload").json()["error"]["value"]
    assert answering(client) == "first"


def test_without_memory_for_two_it_refuses_and_keeps_the_old_one(client: TestClient, served: Any) -> None:
    """1000 bytes are free, and each byte of the files takes three."""
    shelf = shelf_of(client)
    shelf.then, shelf.bytes = served("second"), 334
    answer = post(client, "/reload")
    assert answer.status_code == 409
    assert "of memory are free" in answer.json()["error"]["value"]
    assert answering(client) == "first"
    shelf.bytes = 333
    assert post(client, "/reload").json()["bundle"] == "second"


def test_without_memory_for_three_the_one_before_is_given_up(client: TestClient, served: Any) -> None:
    shelf, versions = shelf_of(client), client.app.state.service.versions  # type: ignore[attr-defined]
    shelf.then = served("second")
    post(client, "/reload")
    shelf.then, shelf.bytes = served("third"), 500
    versions._available = lambda: 1000 if versions.previous is not None else 2000
    assert post(client, "/reload").json()["bundle"] == "third"
    assert post(client, "/rollback").json()["bundle"] == "second"


def test_under_load_every_answer_is_from_one_bundle(client: TestClient, served: Any) -> None:
    """The second bundle has its items in another order: an answer that mixed the two would name others."""
    first = served("first")
    renamed = first.catalogue.__class__(first.catalogue.keys[::-1], first.catalogue.titles, first.catalogue.codes_NL)
    expected = {"first": "k2", "second": "k0"}
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    enough, end = threading.Event(), threading.Event()

    def ask() -> None:
        while not end.is_set():
            answer = client.post("/recommend", json={"items": ["k1"], "k": 1})
            body = answer.json()
            if answer.status_code != 200 or body["items"][0]["item"] != expected[body["bundle"]]:
                wrong.append(answer.text)
            seen[body.get("bundle", "none")] += 1
            if min(seen["first"], seen["second"]) >= 50:
                enough.set()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    with client:
        for thread in threads:
            thread.start()
        shelf = shelf_of(client)
        for turn in range(200):
            shelf.then = served("second", catalogue=renamed) if turn % 2 == 0 else first
            assert post(client, "/reload").json()["changed"]
            if enough.is_set() and turn >= 10:
                break
        end.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    assert min(seen["first"], seen["second"]) >= 50
