"""What may be recommended: lists in a request, and named lists whose files change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from trialign.errors import ConfigError


def keys(client: TestClient, **request: Any) -> list[str]:
    answer = client.post("/recommend", json={"items": ["k0"], "k": 3} | request)
    assert answer.status_code == 200, answer.text
    return [item["item"] for item in answer.json()["items"]]


def test_allowed_and_blocked_items_of_a_request(client: TestClient) -> None:
    assert keys(client, blocked=["k1", "k3"]) == ["k2", "k4", "k5"]
    assert keys(client, allowed=["k9", "k5", "k3"], blocked=["k5"]) == ["k3", "k9"]
    assert keys(client, allowed=[]) == []
    assert client.post("/recommend", json={"items": ["k0"], "allowed": ["k1", "x"]}).json()["unknown"] == ["x"]


def test_requests_with_and_without_stock_are_ranked_together(client: TestClient, together: Any) -> None:
    asked = [{"items": ["k0"], "k": 2}, {"items": ["k0"], "k": 3, "allowed": ["k7", "k8"]}, {"items": ["k0"], "k": 1}]
    assert together(client, asked) == [["k1", "k2"], ["k7", "k8"], ["k1"]]


def test_a_named_list_is_read_again_when_its_file_changes(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    (tmp_path / "sold.txt").write_text("k1\n\nk2\nnot-there\n")
    client = make_client(stock=str(tmp_path))
    assert keys(client, blocked="sold") == ["k3", "k4", "k5"]
    (tmp_path / "sold.txt").write_text("k4\n")
    assert keys(client, blocked="sold") == ["k1", "k2", "k3"]
    (tmp_path / "new.partial").write_text("k11\nk10\n")
    (tmp_path / "new.partial").rename(tmp_path / "new.txt")
    assert keys(client, allowed="new") == ["k10", "k11"]
    assert client.app.state.service.stock.names() == ["new", "sold"]  # type: ignore[attr-defined]


def test_a_list_is_read_as_the_command_line_reads_it(make_client: Callable[..., TestClient], tmp_path: Path) -> None:
    (tmp_path / "sold.txt").write_bytes("\ufeffk1\r\nk2\r\n".encode())  # as spreadsheets write it
    assert keys(make_client(stock=str(tmp_path)), blocked="sold") == ["k3", "k4", "k5"]


def test_a_list_that_is_gone_or_no_text_is_refused_by_name(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("k1")
    (tmp_path := tmp_path / "lists").mkdir()
    client = make_client(stock=str(tmp_path))
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    (tmp_path / "sold.txt").write_text("k1")
    (tmp_path / "loop.txt").mkdir()
    keys(client, blocked="sold")
    (tmp_path / "sold.txt").unlink()
    for name in ("sold", "bytes", "loop", ".", "", "a/b", "../secret", "x" * 200):
        answer = client.post("/recommend", json={"items": [], "blocked": name})
        assert answer.status_code == 422
        assert f"no stock list '{name[:50]}" in answer.json()["error"]["value"]


def test_a_folder_that_is_not_there_is_refused_at_the_start(
    make_client: Callable[..., TestClient], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        make_client(stock=str(tmp_path / "none"))
