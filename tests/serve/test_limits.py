"""Bad requests: each is refused with value, rule and remedy, and the service goes on answering."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

JSON = {"content-type": "application/json"}
GOOD = {"items": ["k1"], "k": 1}


def refused(answer: Any, status: int) -> dict[str, str]:
    """Return the error of an answer, which must have this status, all three parts, and no trace of the code."""
    assert answer.status_code == status, answer.text
    error: dict[str, str] = answer.json()["error"]
    assert set(error) == {"value", "rule", "remedy"}
    assert all(error.values())
    assert "Traceback" not in answer.text
    assert len(answer.text) < 2000
    return error


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 422, "body"),
        (b"{", 400, "JSON"),
        (b"\xff\xfe", 400, "body"),
        (b"[" * 500_000, 400, "body"),
        (b'{"items":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400, "body"),
        (b'{"items":[' + b"[" * 500 + b"]" * 500 + b"]}", 422, "items"),
        (b"[]", 422, "body"),
        (b"null", 422, "body"),
        (b'"k1"', 422, "body"),
        (b"{}", 422, "neither items nor user"),
        (b'{"items":["k1"],"user":"u0"}', 422, "items and user"),
        (b'{"items":"k1"}', 422, "items"),
        (b'{"items":[1]}', 422, "items"),
        (b'{"items":[null]}', 422, "items"),
        (b'{"items":{"k1":1}}', 422, "items"),
        (b'{"items":["k1"],"k":0}', 422, "k=0"),
        (b'{"items":["k1"],"k":-1}', 422, "k=-1"),
        (b'{"items":["k1"],"k":1000000}', 422, "k=1000000"),
        (b'{"items":["k1"],"k":1e400}', 422, "k=inf"),
        (b'{"items":["k1"],"k":NaN}', 422, "k=nan"),
        (b'{"items":["k1"],"k":' + b"9" * 5000 + b"}", 400, "body"),
        (b'{"items":["k1"],"k":"3"}', 422, "k=3"),
        (b'{"items":["k1"],"k":true}', 422, "k"),
        (b'{"items":["k1"],"exclude_seen":1}', 422, "exclude_seen"),
        (b'{"items":["k1"],"beams":9}', 422, "beams"),
        (b'{"items":["\\ud800"]}', 422, "items"),
        (b'{"user":"\\u001b[2J\\u202e"}', 422, "\\x1b"),
        (b'{"user":"nobody"}', 422, "nobody"),
        (b'{"user":"' + b"x" * 100_000 + b'"}', 422, "xxx"),
        (b'{"items":["k1"],"allowed":[1]}', 422, "allowed"),
        (b'{"items":["k1"],"allowed":"none"}', 422, "none"),
        (b'{"items":["k1"],"blocked":"../../etc/passwd"}', 422, "passwd"),
        (json.dumps({"items": ["k1"] * 10_000}).encode(), 422, "10000 items"),
        (b" " * (2**20 + 1), 413, "1048577 bytes"),
    ],
)
def test_a_bad_body_is_refused(client: TestClient, body: bytes, status: int, word: str) -> None:
    assert word in refused(client.post("/recommend", content=body, headers=JSON), status)["value"]
    assert client.post("/recommend", json=GOOD).status_code == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_another_type_of_content_is_refused(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    refused(client.post("/recommend", content=json.dumps(GOOD).encode(), headers=headers), 415)
    good = client.post(
        "/recommend", content=json.dumps(GOOD).encode(), headers={"content-type": "application/JSON; x=y"}
    )
    assert good.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/recommend", 404),
        ("GET", "/none/such", 404),
        ("GET", "/items/none", 404),
        ("GET", "/items?k=0", 422),
        ("GET", "/items?k=1000", 422),
        ("GET", "/items?k=x", 422),
        ("GET", "/items?search=" + "x" * 300, 422),
        ("GET", "/..%2f..%2fetc/passwd", 404),
        ("DELETE", "/items/k1", 405),
    ],
)
def test_a_bad_path_is_refused(client: TestClient, method: str, path: str, status: int) -> None:
    refused(client.request(method, path), status)


def test_a_body_in_parts_is_counted(client: TestClient) -> None:
    parts = (b" " * 2**18 for _ in range(8))
    refused(client.post("/recommend", content=parts, headers=JSON), 413)


def test_unknown_items_and_empty_histories_are_answered_or_refused_by_setting(
    make_client: Callable[..., TestClient],
) -> None:
    client = make_client()
    assert client.post("/recommend", json={"items": ["x", "x", "y"], "k": 1}).json()["unknown"] == ["x", "y"]
    assert client.post("/recommend", json={"items": [], "k": 1}).json()["items"][0]["item"] == "k0"
    strict = make_client(unknown_items="refuse", empty_history="refuse")
    assert "x, y" in refused(strict.post("/recommend", json={"items": ["x", "y"]}), 422)["value"]
    assert "z" in refused(strict.post("/recommend", json={"items": ["k1"], "blocked": ["z"]}), 422)["value"]
    refused(strict.post("/recommend", json={"items": []}), 422)


def test_a_failure_of_the_ranker_is_that_of_one_request(make_client: Callable[..., TestClient], served: Any) -> None:
    def rank(histories: Any, k: int, **how: Any) -> Any:
        if any(3 in history for history in histories):
            raise ValueError("secret")
        return served().rank(histories, k, **how)

    client = make_client(served(rank=rank))
    answer = client.post("/recommend", json={"items": ["k3"]})
    assert "secret" not in answer.text
    refused(answer, 503)
    assert client.post("/recommend", json=GOOD).status_code == 200


def test_a_failure_of_the_code_is_answered_without_a_traceback(
    make_client: Callable[..., TestClient], served: Any
) -> None:
    def fail(_key: str) -> None:
        raise RuntimeError("secret")

    answer = make_client(served(user=fail)).post("/recommend", json={"user": "u0"})
    assert "secret" not in answer.text
    refused(answer, 503)


def test_without_users_a_user_is_refused_with_the_way_out(make_client: Callable[..., TestClient], served: Any) -> None:
    error = refused(make_client(served(user=None)).post("/recommend", json={"user": "u0"}), 422)
    assert "trialign serve run=DIR" in error["remedy"]


def test_every_answer_has_the_headers_that_protect_a_page(client: TestClient) -> None:
    for path in ("/", "/health", "/none", "/items/none"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"


def test_a_token_is_asked_of_all_but_health_and_readiness(make_client: Callable[..., TestClient]) -> None:
    client = make_client(token="s3cret")
    for path in ("/", "/items", "/metrics", "/openapi.json", "/none"):
        refused(client.get(path), 401)
        assert client.get(path, headers={"authorization": "Bearer s3cret"}).status_code == (
            404 if path == "/none" else 200
        )
    assert client.get("/items", auth=("anybody", "s3cret")).status_code == 200
    for wrong in ("Bearer s3cre", "Bearer", "Basic !", "Basic czNjcmV0", "Digest s3cret", "Bearer \xff"):
        refused(client.get("/items", headers={"authorization": wrong.encode("latin-1")}), 401)
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_without_a_token_only_this_machine_administers(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    assert client.post("/reload", headers=JSON).status_code == 200
    refused(client.post("/reload", headers=JSON | {"host": "rebound.example:8000"}), 403)
    refused(client.post("/reload", headers=JSON | {"x-forwarded-for": "10.0.0.1"}), 403)
    refused(client.post("/reload"), 415)  # as a form of a foreign page would
    refused(make_client(host="0.0.0.0").post("/reload", headers=JSON), 403)
    with_token = make_client(host="0.0.0.0", token="s3cret")
    refused(with_token.post("/rollback", headers=JSON), 401)
    assert with_token.post("/reload", headers=JSON | {"authorization": "Bearer s3cret"}).status_code == 200


def test_openapi_describes_requests_answers_and_refusals(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/recommend", "/items", "/items/{key}", "/health", "/ready", "/metrics", "/reload", "/rollback"} <= set(
        paths
    )
    answers = paths["/recommend"]["post"]["responses"]
    kinds = {
        code: found["content"]["application/json"]["schema"]["$ref"].split("/")[-1] for code, found in answers.items()
    }
    assert kinds["200"] == "Recommendation"
    assert {kinds[code] for code in ("400", "401", "413", "415", "422", "503")} == {"Error"}
