"""A finished run that is served: it recommends what `trialign.Run` does, and is served as one whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from trialign.launch import serve

import trialign
from trialign.config.compose import compose
from trialign.config.serve import ServeConfig
from trialign.errors import ConfigError, StageError
from trialign.serve.app import build_app
from trialign.serve.refusal import RefusedError
from trialign.serve.served import RunSource
from trialign.serve.service import Service
from trialign.serve.versions import Versions


def source_of(folder: Path) -> RunSource:
    return RunSource(folder, from_stage={}, generator="train", accelerator="cpu", num_beams=50, batch_size=64)


@pytest.fixture(scope="module")
def run(finished: Path) -> trialign.Run:
    return trialign.Run(finished)


def test_a_run_recommends_over_http_what_it_does_in_python(run: trialign.Run) -> None:
    service = Service(Versions(source_of(run.folder), lambda: None), ServeConfig())
    client = TestClient(build_app(service), base_url="http://127.0.0.1")
    keys = run.dataset.keys
    user = run.dataset.evaluation("test").users[0]
    blocked = [item.key for item in run.recommend([keys[:2]], k=2)[0].items]
    asked: list[tuple[dict[str, Any], trialign.Recommendation]] = [
        ({"items": keys[:3]}, run.recommend([keys[:3]])[0]),
        ({"items": [], "k": 3}, run.recommend([[]], k=3)[0]),
        ({"items": keys[:3], "exclude_seen": False, "k": 50}, run.recommend([keys[:3]], 50, exclude_seen=False)[0]),
        ({"user": user, "k": 5}, run.recommend_to([user], 5)[0]),
    ]
    for request, expected in asked:
        body = client.post("/recommend", json=request).json()
        assert [item["item"] for item in body["items"]] == [item.key for item in expected.items]
        assert [item["score"] for item in body["items"]] == pytest.approx(list(expected.scores), abs=1e-5)
        assert [tuple(item["sid"]) for item in body["items"]] == [item.sid for item in expected.items]
        assert body["history"] == [item.key for item in expected.history]
    body = client.post("/recommend", json={"items": keys[:2], "k": 48, "blocked": blocked}).json()
    assert not {item["item"] for item in body["items"]} & set(blocked)
    client.post("/reload", headers={"content-type": "application/json"}).raise_for_status()
    service.batcher.close()


def test_a_run_that_lacks_a_file_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "r")
    source = source_of(tmp_path / "r")
    assert source.load().digest == source_of(finished).load().digest
    (tmp_path / "r" / "train" / "generator.safetensors").write_bytes(b"short")
    with pytest.raises(StageError, match=r"generator.safetensors \(5 of"):
        source.load()


def test_users_are_not_read_from_a_dataset_that_was_made_again(finished: Path, tmp_path: Path) -> None:
    """Its items may have other indices than those of the model that answers."""
    shutil.copytree(finished, tmp_path / "r")
    served = source_of(tmp_path / "r").load()
    assert served.user is not None
    user = trialign.Run(finished).dataset.evaluation("test").users[0]
    assert len(served.user(user).history)
    manifest = tmp_path / "r" / "prepare" / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    with pytest.raises(RefusedError, match="made again"):
        served.user(user)
    manifest.write_text(text)
    with pytest.raises(RefusedError, match="made again"):
        served.user(user)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve.host=203.0.113.1"], "serve.host=203.0.113.1"),
        (["serve.token_env=NO_SUCH_TOKEN"], "serve.token_env=NO_SUCH_TOKEN"),
        (["serve.port=70000"], "70000"),
    ],
)
def test_a_service_that_cannot_start_says_why(words: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=told):
        serve.run(compose("serve", ["run=/runs/one", *words]))


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"serve.port={port}"):
            serve.run(compose("serve", [f"run={tmp_path}", f"serve.port={port}"]))


def test_without_the_extra_it_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(ConfigError, match="uvicorn is not installed") as error:
        serve.run(compose("serve", ["run=/runs/one"]))
    assert error.value.remedy == "pip install 'trialign[serve]'"
