"""The endpoint backend against a server that misbehaves."""

from __future__ import annotations

import pytest

from trialign.config.enrich import EndpointBackendConfig
from trialign.enrich.endpoint import Endpoint
from trialign.enrich.protocol import Failure, Reply, Request
from trialign.errors import ConfigError


def ask(server, *requests, **settings):
    settings = {"backoff": 0.001, "max_attempts": 3, "timeout": 5.0} | settings
    answers = {}
    backend = Endpoint(EndpointBackendConfig(url=server.url, model="m", **settings))
    backend.answer(iter([(str(number), request) for number, request in enumerate(requests)]), answers.__setitem__)
    return [answers[str(number)] for number in range(len(requests))]


FAULTS = {
    "429": "http_429",
    "500": "http_500",
    "drop": "connection",
    "half": "connection",
    "shape": "protocol",
    "deep": "protocol",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_asked_again_a_lasting_one_counted(server, fault):
    server.says = lambda *_: "fine"
    server.script = [fault] * 2
    (answer,) = ask(server, Request("t"))
    assert isinstance(answer, Reply)
    assert (answer.text, answer.tokens, answer.cut) == ("fine", 7, False)
    server.script = [fault] * 3
    (answer,) = ask(server, Request("t"))
    assert isinstance(answer, Failure)
    assert answer.cause == FAULTS[fault]
    assert len(server.asked) == 6


def test_a_refused_request_is_not_repeated(server):
    server.script = ["400"]
    (answer,) = ask(server, Request("t"))
    assert isinstance(answer, Failure)
    assert answer.cause == "http_400"
    assert len(server.asked) == 1


def test_a_silent_server_times_out(server):
    server.script = ["hang"]
    (answer,) = ask(server, Request("t"), max_attempts=1, timeout=0.1)
    assert answer == Failure("timeout")


def test_a_server_that_sends_byte_after_byte_times_out(server):
    server.script = ["drip"]
    (answer,) = ask(server, Request("t"), max_attempts=1, timeout=0.2)
    assert answer == Failure("timeout")


def test_a_reply_without_end_costs_its_own_question_and_no_memory(server):
    """Red: the whole of it is read before anybody looks, until the memory or the time is over."""
    server.script, server.says = ["endless"], lambda *_: "fine"
    lost, found = ask(server, Request("t"), Request("t"), concurrency=1)
    assert isinstance(lost, Failure)
    assert lost.cause == "oversized"
    assert "8 MiB" in lost.detail
    assert "max_tokens" in lost.detail
    assert server.sent < 100, "megabytes: what was under way when the connection was closed is all that is lost"
    assert isinstance(found, Reply)
    assert len(server.asked) == 2, "the same question would bring the same reply"


def test_every_request_once_pictures_as_data_urls(server):
    answers = ask(server, *(Request(str(number), b"\x89PNG") for number in range(40)), concurrency=8)
    assert all(isinstance(answer, Reply) for answer in answers)
    contents = [body["messages"][0]["content"] for body in server.asked]
    assert sorted(int(content[1]["text"]) for content in contents) == list(range(40))
    assert {content[0]["image_url"]["url"] for content in contents} == {"data:image/png;base64,iVBORw=="}


def test_no_more_at_a_time_than_asked_for(server):
    """Requests are taken as there is room for them: so many under way, as many ready, one more in the hand."""
    taken = 0

    def requests():
        nonlocal taken
        for number in range(20):
            taken += 1
            yield str(number), Request("t", b"")

    ahead = []
    server.seconds = 0.02
    backend = Endpoint(EndpointBackendConfig(url=server.url, model="m", concurrency=3))
    backend.answer(requests(), lambda *_: ahead.append(taken - len(ahead)))
    assert len(ahead) == 20
    assert max(ahead) <= 3 + 3 + 1
    assert server.most <= 3


def test_further_fields_and_the_key(server, monkeypatch):
    monkeypatch.setenv("THE_KEY", "SECRET")
    backend = Endpoint(
        EndpointBackendConfig(url=server.url, model="m", api_key_env="THE_KEY", extra={"top_k": 1}, max_tokens=9)
    )
    backend.answer(iter([("a", Request("t", b""))]), lambda *_: None)
    (body,) = server.asked
    assert {name: body[name] for name in ("model", "temperature", "max_tokens", "top_k")} == {
        "model": "m",
        "temperature": 0,
        "max_tokens": 9,
        "top_k": 1,
    }
    assert "SECRET" not in repr(backend) + backend.identity + backend.source
    # Another place or key is the same model; other settings of decoding are not.
    same = Endpoint(EndpointBackendConfig(url="http://elsewhere/v1", model="m", extra={"top_k": 1}, max_tokens=9))
    assert same.identity == backend.identity
    assert Endpoint(EndpointBackendConfig(url=server.url, model="m", max_tokens=9)).identity != backend.identity


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"api_key_env": "NO_SUCH"}, "NO_SUCH"), ({"url": "x"}, "url=x")],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        Endpoint(EndpointBackendConfig(**({"url": "http://x/v1", "model": "m"} | settings)))
